"""Writing files so that the final name never holds half a file: temporary, fsync, rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


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
    """Yield a temporary folder beside ``path``; it replaces ``path`` when the block ends well."""
    with _unfinished(path) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for file in unfinished.iterdir():
            _open_to_others(file)
            _sync(file)
        _sync(unfinished)
        if path.exists():  # a folder cannot be renamed over a full one
            previous = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
            path.replace(previous)
            unfinished.replace(path)
            shutil.rmtree(previous)
        else:
            unfinished.replace(path)
        _sync(path.parent)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    unfinished = path.parent / f".{path.name}.{os.getpid()}.unfinished"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{path} could not be written ({reason}); free some space or make the folder "
            "writable and run the command again",
        ) from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink(missing_ok=True)


def _open_to_others(file: Path) -> None:
    """Give a file the usual mode; safetensors makes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
