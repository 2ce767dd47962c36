"""The folder of a run: locked by one process, with one configuration, and finished once."""

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

# Settings that may change when a run resumes: where it runs and where files are, but nothing that
# affects results. Clips are compared by name, and the backbone by its weights.
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
"""Settings of the trainer that affect results."""


class RunFolderError(UserError):
    """A run folder that cannot be used."""


def lock_run_folder(run: Path) -> int:
    """Lock a run folder until this process ends.

    Returns:
        The open lock, which may be closed earlier.

    Raises:
        RunFolderError: another process has locked it, or it cannot be written to.
    """
    path = run / ".lock"
    try:
        run.mkdir(parents=True, exist_ok=True)
        # The lock belongs to this process only, not to loader workers that outlive it.
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except (FileExistsError, NotADirectoryError) as error:
        raise RunFolderError(
            f"{run} cannot be written to (it is, or is in, a file, not a folder); choose "
            "another folder with --run=FOLDER"
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"{run} cannot be written to ({error.strerror}); make it writable, or choose another "
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
    except OSError as error:  # a file system without locks
        os.close(lock)
        raise RunFolderError(
            f"{path} cannot be locked ({error.strerror}); choose a folder on another disk"
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lock


def is_finished(run: Path) -> bool:
    """Whether a run has its results, which are written last, with all figures."""
    scores = run.glob("scores-*.json")
    return (run / "report.json").exists() or any(not _lacks_figures(path) for path in scores)


def _lacks_figures(scores: Path) -> bool:
    with suppress(*PARSE_ERRORS):
        return "failed" in json.loads(scores.read_text())
    return False


def refuse_finished(run: Path) -> None:
    """Raise RunFolderError if a run has finished, as results are never overwritten."""
    if is_finished(run):
        raise RunFolderError(
            f"{run} already holds a finished run; choose another folder with --run=FOLDER "
            "(make: RUN=FOLDER to align, TUNED=FOLDER to tune, ARGS=--run=FOLDER to test), or "
            "move the old one away"
        )


def refuse_other_settings(run: Path, now: Mapping[str, Any]) -> None:
    """Raise RunFolderError if the run in a folder was started with other settings.

    Args:
        run: folder with the ``config.yaml`` that it was started with.
        now: the new configuration, as plain data.
    """
    path = run / "config.yaml"
    try:
        then = plain_data(path)
    except (*PARSE_ERRORS, yaml.YAMLError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}), so the settings of the run are unknown; choose "
            "another folder with --run=FOLDER"
        ) from error
    old, new = dict(_settings(then)), dict(_settings(now))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise RunFolderError(
                f"{run} contains a run that was started with {name}={old.get(name)}, this command "
                f"asks for {new.get(name)}; give the same settings to resume it, or choose another "
                "folder with --run=FOLDER to start a new one"
            )


def plain_data(path: Path) -> dict[str, Any]:
    """Read a run's ``config.yaml``.

    Raises:
        OSError, ValueError, RecursionError, yaml.YAMLError: it cannot be read.
    """
    found = yaml.load(path.read_text(), UniqueKeys)
    if not isinstance(found, dict):
        raise ValueError("it contains no settings")
    return found


def _settings(configuration: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every setting that affects results."""
    if above in _FREE or (above[:1] == ("trainer",) and above[1:] and above[1] not in _TRAINING):
        return
    if isinstance(configuration, Mapping) and configuration:
        for name, value in configuration.items():
            yield from _settings(value, (*above, str(name)))
    else:
        yield ".".join(above), configuration
