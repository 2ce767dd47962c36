"""Checkpoints of a run, read safely.

A checkpoint is torch's zip file of tensors and plain types. Nothing in it is executed, and a
truncated, modified or compressed file is refused before torch reads it.
"""

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from vlynx_pl.io.errors import PARSE_ERRORS, UserError

_TORCH_ERRORS: Final = (
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    AttributeError,
    AssertionError,
    MemoryError,
)
"""What torch raises for invalid files."""
_PARTS: Final = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "loops",
    "invariants",
    "seed",
    "frame_chunk",
)


def checkpoint_path(run: Path, step: int) -> Path:
    """Path of the checkpoint after so many optimizer steps."""
    return run / "checkpoints" / f"step-{step:08d}.ckpt"


def checkpoints(run: Path) -> list[Path]:
    """List a run's checkpoints by step, the newest first; clocks may be wrong."""
    return sorted((run / "checkpoints").glob("step-*.ckpt"), reverse=True)


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """Find the newest valid checkpoint, and what is wrong with newer ones.

    Raises:
        UserError: there are checkpoints, but none is valid.
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
        UserError: the file is missing, damaged, or not the checkpoint of a run.
    """
    try:
        if reason := next(_damage(path), None):
            raise ValueError(reason)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or (missing := [p for p in _PARTS if p not in found]):
            raise ValueError("it is not a run" if not isinstance(found, dict) else f"no {missing}")
    except (*PARSE_ERRORS, *_TORCH_ERRORS) as error:
        # For other types, torch's own message advises to execute them.
        reason = str(error).partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = "it contains more than tensors and plain types"
        raise UserError(
            f"checkpoint {path} cannot be used ({reason}); remove it, and the run resumes from the "
            "one before, or starts again"
        ) from error
    return found


def _damage(path: Path) -> Iterator[str]:
    """What is wrong with the zip file; torch itself does not verify checksums."""
    with zipfile.ZipFile(path) as parts:
        for part in parts.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                yield f"{part.filename} in it is compressed"
        if sum(part.file_size for part in parts.infolist()) > path.stat().st_size:
            yield "its parts overlap"
        if damaged := parts.testzip():
            yield f"{damaged} in it is damaged"
