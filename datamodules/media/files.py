"""Finding video and sound files, and the one that an annotation names."""

import os
from collections.abc import Iterator
from pathlib import Path

from datamodules.media.audio import SOUND_SUFFIXES
from datamodules.media.paths import check_folder, in_any_case, inside
from datamodules.media.video import VIDEO_SUFFIXES
from datamodules.samples import BadSample


def find_media(root: Path, sound: bool = False) -> list[tuple[str, Path]]:
    """Name and path of every video under ``root``, or under ``root/videos`` if that exists.

    Args:
        root: a folder, or a file; links to other folders are followed.
        sound: include audio files.

    Raises:
        BadSample: the folder is missing, or holds no such file.
    """
    if root.is_file():
        return [(root.name, root)]
    check_folder(root, "Give the folder that holds the videos")
    base = root / "videos" if (root / "videos").is_dir() else root
    suffixes = VIDEO_SUFFIXES | SOUND_SUFFIXES if sound else VIDEO_SUFFIXES
    named = sorted(path for path in _walk(base) if path.suffix.lower() in suffixes)
    # A folder named like a video is listed, so that reading it names it, unless it holds videos.
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

    The suffix may be missing, in capitals, or that of another container: downloads of ``x.mp4``
    often come as ``x.mkv`` or ``x.MP4``.

    Args:
        root: folder of the data.
        name: relative path.
        sound: accept an audio file if there is no video.

    Raises:
        BadSample: it is missing, or the name leads out of the folder.
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
    raise BadSample(path, "is missing", "Download it, or leave it out", "missing")


def _walk(base: Path) -> Iterator[Path]:
    """Everything that is not hidden; a folder's content once, however many links lead to it."""
    seen: set[Path] = set()
    for folder, folders, files in os.walk(base, followlinks=True):
        place = Path(folder).resolve()
        folders[:] = [name for name in folders if not name.startswith(".") and place not in seen]
        if place not in seen:
            yield from (Path(folder, name) for name in [*folders, *files] if name[0] != ".")
        seen.add(place)
