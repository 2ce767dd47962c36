"""Which video and sound files there are, and which one an annotation means."""

import os
from collections.abc import Iterator
from pathlib import Path

from datamodules.media.audio import SOUND_SUFFIXES
from datamodules.media.paths import check_folder, in_any_case, inside
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
    check_folder(root, "Give the folder that holds the videos")
    base = root / "videos" if (root / "videos").is_dir() else root
    suffixes = VIDEO_SUFFIXES | SOUND_SUFFIXES if sound else VIDEO_SUFFIXES
    named = sorted(path for path in _walk(base) if path.suffix.lower() in suffixes)
    # A folder named like a video is listed, so that its name is told, unless videos are in it.
    full = {folder for path in named if path.is_file() for folder in path.parents}
    paths = [path for path in named if path not in full]
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

    Names without suffix, suffixes in capitals and files in another container will do: downloads of
    ``x.mp4`` often come as ``x.mkv`` or ``x.MP4``.

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
        if found := in_any_case(candidate):  # which may be a link that leads elsewhere
            return inside(root, str(found.relative_to(root)), root)
    if root.is_file():
        check_folder(root, "Give the folder that holds the media")
    raise BadSample(path, "is not there", "Download it, or leave it out", "missing")


def _walk(base: Path) -> Iterator[Path]:
    """All that is not hidden; what is in a folder once, however many links lead to it."""
    seen: set[Path] = set()
    for folder, folders, files in os.walk(base, followlinks=True):
        place = Path(folder).resolve()
        folders[:] = [name for name in folders if not name.startswith(".") and place not in seen]
        if place not in seen:
            yield from (Path(folder, name) for name in [*folders, *files] if name[0] != ".")
        seen.add(place)
