"""Atomic files and folders: written under a temporary name, synced, then renamed.

Threads, processes and nodes may write the same name at once: each succeeds, and the last one wins.
A killed run may leave ``.<name>.<random>.unfinished``, which can be removed.
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

# The umask can be read only by setting it, for all threads, so this is done once, at import.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def readable(name: object) -> str:
    """Escape the bytes of a file name that are not UTF-8 as ``\\udcXX``, as JSON does.

    Python keeps such bytes as lone surrogates, which cannot be written.
    """
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file in UTF-8; raise OSError like :func:`atomic_file`."""
    with (
        atomic_file(path) as unfinished,
        unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        csv.writer(file).writerows(rows)


def stays_inside(root: Path, name: str) -> bool:
    """Whether ``root / name`` is in the root, for a name from an untrusted file.

    It is not if the name is empty or absolute, contains ``..`` or NUL, or leaves the root through a
    symbolic link. The path need not exist.
    """
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        return False
    try:
        return (root / name).resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which becomes ``path`` if the block succeeds.

    Raises:
        OSError: with the path, the system's reason and a remedy; ``path`` is unchanged.
    """
    with _unfinished(path) as unfinished:
        yield unfinished
        _set_usual_mode(unfinished)
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, which replaces ``path`` if the block succeeds.

    An existing folder is moved away first: a run killed at that instant leaves it as
    ``.<name>.<random>.replaced``.

    Raises:
        OSError: with the path, the system's reason and a remedy.
    """
    with _unfinished(path) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for entry in [*unfinished.rglob("*"), unfinished]:
            _set_usual_mode(entry)
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
    # Random, as process ids repeat on nodes and in containers that share a folder.
    return path.parent / f".{path.name}.{uuid4().hex[:16]}.{state}"


def _replace_folder(new: Path, path: Path) -> None:
    try:
        new.replace(path)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        previous = _beside(path, "replaced")  # a folder cannot be renamed over one with files
        with suppress(FileNotFoundError):  # another writer has moved it away
            path.replace(previous)
        _replace_folder(new, path)  # another writer may have put its own there
        shutil.rmtree(previous, ignore_errors=True)  # network disks keep files that are being read


def _set_usual_mode(path: Path) -> None:
    """Set the usual mode, as safetensors makes files that only their owner may read."""
    usual = 0o777 if path.is_dir() else 0o666
    path.chmod(stat.S_IMODE(path.stat().st_mode) | usual & ~_UMASK)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
