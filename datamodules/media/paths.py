"""Paths that annotation files name: they stay inside their root."""

from pathlib import Path

from datamodules.samples import BadSample


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
    path = root / name
    if name and "\0" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts:
        try:
            if path.resolve().is_relative_to(root.resolve()):
                return path
        except (OSError, RuntimeError):  # links in a circle
            pass
    raise BadSample(
        source,
        f"names {name!r}, which is no path inside {root}",
        "Correct the annotation, or copy or mount what lies elsewhere; nothing outside of the root "
        "is opened",
    )
