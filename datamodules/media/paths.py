"""Checking paths that users and annotation files name: they exist and stay in their root."""

from functools import lru_cache
from pathlib import Path

from datamodules.samples import BadSample
from vlynx_pl.io.files import stays_inside


def check_folder(path: Path, remedy: str) -> None:
    """Raise BadSample with this remedy unless a path is a folder."""
    if not path.is_dir():
        reason = "is a file, not a folder" if path.exists() else "is missing"
        raise BadSample(path, reason, remedy, "missing")


def in_any_case(path: Path) -> Path | None:
    """The path if it exists, else one whose suffix differs in case only, else None."""
    if path.exists():
        return path
    folder = path.parent
    changed = folder.stat().st_mtime_ns if folder.is_dir() else 0
    name = _names(folder, changed).get(path.stem + path.suffix.lower()) if changed else None
    return folder / name if name and (folder / name).exists() else None


@lru_cache(maxsize=64)  # annotations name thousands of files of a folder
def _names(folder: Path, changed: int) -> dict[str, str]:
    """The names in a folder, by name with a lower-case suffix."""
    return {path.stem + path.suffix.lower(): path.name for path in sorted(folder.iterdir())}


def inside(root: Path, name: str, source: Path) -> Path:
    """``root / name``, which need not exist.

    Args:
        root: folder of the data.
        name: relative path in an annotation file.
        source: that annotation file, for the message.

    Raises:
        BadSample: the name is empty, absolute, climbs with ``..``, holds a NUL, or leads out of the
            root through a symbolic link.
    """
    if stays_inside(root, name):
        return root / name
    raise BadSample(
        source,
        f"names {name!r}, which is not a path inside {root}",
        "Correct the annotation, or copy or mount what lies elsewhere; nothing outside the root is "
        "opened",
    )
