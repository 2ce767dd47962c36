"""Writing files so that the final name never holds half a file: temporary, fsync, rename.

Threads, processes and nodes may write one name at once: each succeeds, and the last to end wins.
What a killed run leaves behind is called ``.<name>.<random>.unfinished`` and may be removed.
"""

import csv
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

# Asked once, since asking means setting it, for every thread: too closed for an instant at import
# rather than too open at every file. A umask set later is not seen here.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def readable(name: object) -> str:
    """The text of a file name in UTF-8: a byte that is not becomes ``\\udcXX``, as JSON has it.

    Python keeps such bytes as half surrogate pairs, which no file, terminal or figure takes.
    """
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file in UTF-8, whatever the locale; raises OSError as ``atomic_file`` does."""
    with (
        atomic_file(path) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file).writerows(rows)


def stays_inside(root: Path, name: str) -> bool:
    """Whether ``root / name``, a path that comes from a file of somebody else, is in the root.

    It is not where the name is empty or absolute, climbs with ``..``, holds a NUL, or leads out of
    the root through a symbolic link. That it exists isn't asked.
    """
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        return False
    try:
        return (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it becomes ``path`` when the block ends well.

    Raises:
        OSError: what the system said, with the path and a remedy; ``path`` is as it was before.
    """
    with _unfinished(path) as unfinished:
        yield unfinished
        _open_to_others(unfinished)
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it replaces ``path`` when the block ends well.

    Folders in it are welcome. Where ``path`` held a folder before, there is none for an instant:
    a run killed then leaves the former one as ``.<name>.<random>.replaced``.

    Raises:
        OSError: what the system said, with the path and a remedy.
    """
    with _unfinished(path) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for entry in [*unfinished.rglob("*"), unfinished]:
            _open_to_others(entry)
            _sync(entry)
        _replace_folder(unfinished, path)
        _sync(path.parent)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    unfinished = _beside(path, "unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
        finally:
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{path} could not be written ({reason}); free some space or make the folder "
            "writable and run the command again",
        ) from error


def _beside(path: Path, state: str) -> Path:
    # Random, because nodes and containers that share a folder have equal process ids.
    return path.parent / f".{path.name}.{uuid4().hex[:16]}.{state}"


def _replace_folder(new: Path, path: Path) -> None:
    try:
        new.replace(path)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        previous = _beside(path, "replaced")  # a folder cannot be renamed over a full one
        with suppress(FileNotFoundError):  # another writer was first to move it away
            path.replace(previous)
        _replace_folder(new, path)  # another writer may have put its own there meanwhile
        shutil.rmtree(previous, ignore_errors=True)  # network disks keep what is still being read


def _open_to_others(path: Path) -> None:
    """Add the usual mode; safetensors makes files that only their owner may read."""
    usual = 0o777 if path.is_dir() else 0o666
    path.chmod(stat.S_IMODE(path.stat().st_mode) | usual & ~_UMASK)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
