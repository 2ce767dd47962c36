"""Paths that annotation files name: they stay inside their root."""

from pathlib import Path

from datamodules.samples import BadSample
from vlynx_pl.files import stays_inside


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
