"""Which video and sound files there are, and which one an annotation means."""

from pathlib import Path

from datamodules.media.audio import SOUND_SUFFIXES
from datamodules.media.paths import inside
from datamodules.media.video import VIDEO_SUFFIXES
from datamodules.samples import BadSample


def find_media(root: Path, sound: bool = False) -> list[tuple[str, Path]]:
    """Name and path of every video under ``root``, or under ``root/videos`` if that is there.

    Args:
        root: a folder, or a file.
        sound: take files of sound alone as well.

    Raises:
        BadSample: the folder is missing, or holds no such file.
    """
    if root.is_file():
        return [(root.name, root)]
    if not root.is_dir():
        raise BadSample(root, "is no folder", "Give the folder that holds the videos", "missing")
    base = _base(root)
    suffixes = VIDEO_SUFFIXES | SOUND_SUFFIXES if sound else VIDEO_SUFFIXES
    names = {
        str(path.relative_to(base)): path
        for path in base.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file()
    }
    found = [(name, names[name]) for name in sorted(names) if not _hidden(name)]
    if not found:
        raise BadSample(
            root,
            f"holds no file named {', '.join(f'*{suffix}' for suffix in sorted(suffixes))}",
            "Give the folder that holds the videos",
            "missing",
        )
    return found


def media_file(root: Path, name: str) -> Path:
    """The file that an annotation calls ``name``, in ``root`` or in ``root/videos``.

    A file of another container will do: downloads of ``x.mp4`` often come as ``x.mkv``.

    Raises:
        BadSample: it is not there, or the name leads out of the folder.
    """
    path = inside(_base(root), name, root)
    if path.exists():
        return path
    names = (path, path.with_name(f"{path.name}.mp4"))  # an id without suffix may hold a dot
    others = [name.with_suffix(suffix) for suffix in sorted(VIDEO_SUFFIXES) for name in names]
    present = [other for other in others if other.is_file()]
    if not present:
        raise BadSample(path, "is not there", "Download it, or leave it out", "missing")
    return present[0]


def _base(root: Path) -> Path:
    videos = root / "videos"
    return videos if videos.is_dir() else root


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)
