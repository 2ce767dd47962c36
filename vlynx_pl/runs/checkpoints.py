"""Checkpoints of a run: what is trained, where it stood, and how a damaged one is told.

A checkpoint is torch's zip file of tensors and plain types. Nothing in one is ever executed, and a
file that was cut off, changed or packed to burst is refused before torch sees it.
"""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from vlynx_pl.io.errors import PARSE_ERRORS, UserError

_TORCHS: Final = (
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    AttributeError,
    AssertionError,
    MemoryError,
)
"""What torch raises at a file that is not its own."""
_PARTS: Final = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "invariants", "seed")


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps what it was after so many optimizer steps."""
    return run / "checkpoints" / f"step-{step:08d}.ckpt"


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints by step, the newest first; clocks may be wrong."""
    return sorted((run / "checkpoints").glob("step-*.ckpt"), reverse=True)


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with those that are newer.

    Raises:
        UserError: there are checkpoints, and none is whole.
    """
    wrong: list[str] = []
    for path in checkpoints(run):
        try:
            read_checkpoint(path)
        except UserError as error:
            wrong.append(str(error))
        else:
            return path, wrong
    if wrong:
        raise UserError(f"{run} has no checkpoint that can be used. {' '.join(wrong)}")
    return None, []


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into memory, without executing anything in it.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of a run.
    """
    try:
        if reason := next(_damage(path), None):
            raise ValueError(reason)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or (missing := [p for p in _PARTS if p not in found]):
            raise ValueError("it holds no run" if not isinstance(found, dict) else f"no {missing}")
    except (*PARSE_ERRORS, *_TORCHS) as error:
        # Torch advises to execute what it does not know; nobody shall.
        unknown = isinstance(error, pickle.UnpicklingError)
        reason = (
            "it holds more than tensors and plain types"
            if unknown
            else str(error).partition("\n")[0]
        )
        raise UserError(
            f"checkpoint {path} cannot be used ({reason}); remove it, and the run goes on from the "
            "one before, or from the beginning"
        ) from error
    return found


def _damage(path: Path) -> Iterator[str]:
    """What is wrong with the file as such; torch itself checks no sums of what it maps."""
    with zipfile.ZipFile(path) as parts:
        for part in parts.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                yield f"{part.filename} in it is compressed"
        if sum(part.file_size for part in parts.infolist()) > path.stat().st_size:
            yield "its parts overlap"
        if damaged := parts.testzip():
            yield f"{damaged} in it is damaged"
