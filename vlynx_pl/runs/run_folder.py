"""The folder of a run: one process at a time, one configuration, and an end."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml

from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.settings_files import UniqueKeys

# What may change when a run goes on: where it runs and where files lie, but nothing of what it
# computes. Clips are compared by name when training goes on, the backbone by its weights.
_FREE: Final = (
    ("checkpoint",),
    ("run",),
    ("ckpt_path",),
    ("weights_only",),
    ("backbone", "init_args", "path"),
    *(("data", "init_args", name) for name in ("root", "reference_root", "cache_dir")),
    *(("data", "init_args", name) for name in ("num_workers", "timeout")),
)
_TRAINING: Final = (
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
)
"""What of the trainer's settings a run computes with."""


class RunFolderError(UserError):
    """The run folder cannot be written into."""


def lock_run_folder(run: Path) -> int:
    """Keep every other process out of a run folder until this one ends.

    Returns:
        The open lock; closing it gives the folder back, as the end of the process does.

    Raises:
        RunFolderError: another process has it, or it cannot be written into.
    """
    path = run / ".lock"
    try:
        run.mkdir(parents=True, exist_ok=True)
        # Of the process alone: loader workers that outlive it do not hold the folder.
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunFolderError(
            f"{run} cannot be written into (it is, or lies in, a file, not a folder); choose "
            "another folder with --run=FOLDER"
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"{run} cannot be written into ({error.strerror}); make it writable, or choose another "
            "folder with --run=FOLDER"
        ) from error
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 200).decode(errors="replace") or "another process"
        os.close(lock)
        raise RunFolderError(
            f"{run} is in use by {holder}; wait for it, stop it, or choose another folder with "
            "--run=FOLDER"
        ) from None
    except OSError as error:  # a file system without locks: say so rather than go without
        os.close(lock)
        raise RunFolderError(
            f"{path} cannot be locked ({error.strerror}); choose a folder on another disk"
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lock


def is_finished(run: Path) -> bool:
    """Whether a run has its results, which it writes last, and none of its figures is missing."""
    scores = run.glob("scores-*.json")
    return (run / "report.json").exists() or any(not _lacks_figures(path) for path in scores)


def _lacks_figures(scores: Path) -> bool:
    with suppress(*PARSE_ERRORS):
        return "failed" in json.loads(scores.read_text())
    return False


def refuse_finished(run: Path) -> None:
    """Raise RunFolderError where a run has ended: its results are not written over."""
    if is_finished(run):
        raise RunFolderError(
            f"{run} already holds a finished run; choose another folder with --run=FOLDER "
            "(make: RUN=FOLDER to align, TUNED=FOLDER to tune, ARGS=--run=FOLDER to test), or "
            "move the old one away"
        )


def refuse_other_settings(run: Path, now: Mapping[str, Any]) -> None:
    """Raise RunFolderError where the run in a folder was begun with other settings.

    Args:
        run: its ``config.yaml`` is what it was begun with.
        now: the configuration it is to go on with, as plain data.
    """
    path = run / "config.yaml"
    try:
        then = plain_data(path)
    except (*PARSE_ERRORS, yaml.YAMLError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}), and nothing else tells what the run was begun with; "
            "choose another folder with --run=FOLDER"
        ) from error
    old, new = dict(_settings(then)), dict(_settings(now))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise RunFolderError(
                f"{run} holds a run that was begun with {name}={old.get(name)}, this command asks "
                f"for {new.get(name)}; give the same settings to go on, or choose another folder "
                "with --run=FOLDER to begin anew"
            )


def plain_data(path: Path) -> dict[str, Any]:
    """What a ``config.yaml`` that a run wrote holds.

    Raises:
        OSError, ValueError, RecursionError, yaml.YAMLError: it cannot be read, or is none.
    """
    found = yaml.load(path.read_text(), UniqueKeys)
    if not isinstance(found, dict):
        raise ValueError("it holds no settings")
    return found


def _settings(configuration: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Name and value of everything that a run computes with."""
    if above in _FREE or (above[:1] == ("trainer",) and above[1:] and above[1] not in _TRAINING):
        return
    if isinstance(configuration, Mapping) and configuration:
        for name, value in configuration.items():
            yield from _settings(value, (*above, str(name)))
    else:
        yield ".".join(above), configuration
