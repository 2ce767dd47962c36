"""Paths that people and annotation files name: what they are, and that they stay in their root."""

from functools import lru_cache
from pathlib import Path

from datamodules.samples import BadSample
from vlynx_pl.io.files import stays_inside


def check_folder(path: Path, remedy: str) -> None:
    """Raise BadSample with this remedy where a path is not a folder."""
    if not path.is_dir():
        reason = "is a file, not a folder" if path.exists() else "is missing"
        raise BadSample(path, reason, remedy, "missing")


def in_any_case(path: Path) -> Path | None:
    """A path that is there, or else one whose suffix differs in case only; None if neither is."""
    if path.exists():
        return path
    folder = path.parent
    changed = folder.stat().st_mtime_ns if folder.is_dir() else 0
    name = _names(folder, changed).get(path.stem + path.suffix.lower()) if changed else None
    return folder / name if name and (folder / name).exists() else None


@lru_cache(maxsize=64)  # annotations name thousands of files of a folder
def _names(folder: Path, changed: int) -> dict[str, str]:
    """Names in a folder, by the same names with their suffixes in small letters."""
    return {path.stem + path.suffix.lower(): path.name for path in sorted(folder.iterdir())}


def inside(root: Path, name: str, source: Path) -> Path:
    """``root / name``; whether it exists isn't checked.

    Args:
        root: folder of the data.
        name: relative path, as an annotation file has it.
        source: that annotation file, for the message.

    Raises:
        BadSample: the name is empty, absolute, climbs with ``..``, holds a NUL, or leads out of the
            root through a symbolic link.
    """
    if stays_inside(root, name):
        return root / name
    raise BadSample(
        source,
        f"names {name!r}, which is no path inside {root}",
        "Correct the annotation, or copy or mount what lies elsewhere; nothing outside of the root "
        "is opened",
    )
