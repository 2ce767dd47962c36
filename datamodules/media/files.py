"""Which video and sound files there are, and which one an annotation means."""

import os
from collections.abc import Iterator
from pathlib import Path

from datamodules.media.audio import SOUND_SUFFIXES
from datamodules.media.paths import inside
from datamodules.media.video import VIDEO_SUFFIXES
from datamodules.samples import BadSample


def find_media(root: Path, sound: bool = False) -> list[tuple[str, Path]]:
    """Name and path of every video under ``root``, or under ``root/videos`` if that is there.

    Args:
        root: a folder, or a file; links to other folders are followed.
        sound: take files of sound alone as well.

    Raises:
        BadSample: the folder is missing, or holds no such file.
    """
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise BadSample(root, "is no folder", "Give the folder that holds the videos", "missing")
    base = root / "videos" if (root / "videos").is_dir() else root
    suffixes = VIDEO_SUFFIXES | SOUND_SUFFIXES if sound else VIDEO_SUFFIXES
    paths = sorted(path for path in _walk(base) if path.suffix.lower() in suffixes)
    if not paths:
        raise BadSample(
            root,
            f"holds no file named {', '.join(f'*{suffix}' for suffix in sorted(suffixes))}",
            "Give the folder that holds the videos",
            "missing",
        )
    return [(str(path.relative_to(base)), path) for path in paths]


def media_file(root: Path, name: str, sound: bool = False) -> Path:
    """The file that an annotation calls ``name``, in ``root`` or in ``root/videos``.

    Names without suffix, and files in another container, will do: downloads of ``x.mp4`` often come
    as ``x.mkv``.

    Args:
        root: folder of the data.
        name: relative path.
        sound: take a file of sound alone, where there is no video.

    Raises:
        BadSample: it is not there, or the name leads out of the folder.
    """
    path = inside(root, name, root)
    bases = [path, inside(root, f"videos/{name}", root)]
    suffixes = [*sorted(VIDEO_SUFFIXES), *(sorted(SOUND_SUFFIXES) if sound else ())]
    candidates = [*bases, *(b.with_name(b.name + suffix) for suffix in suffixes for b in bases)]
    if path.suffix.lower() in VIDEO_SUFFIXES:
        candidates += [b.with_suffix(suffix) for suffix in suffixes for b in bases]
    for candidate in candidates:
        if candidate.exists():  # under another suffix it may be a link that leads elsewhere
            return inside(root, str(candidate.relative_to(root)), root)
    raise BadSample(path, "is not there", "Download it, or leave it out", "missing")


def _walk(base: Path) -> Iterator[Path]:
    """All files that are not hidden; each folder once, however many links lead to it."""
    seen: set[Path] = set()
    for folder, folders, files in os.walk(base, followlinks=True):
        place = Path(folder).resolve()
        folders[:] = [name for name in folders if not name.startswith(".") and place not in seen]
        if place not in seen:
            yield from (Path(folder, name) for name in files if not name.startswith("."))
        seen.add(place)
