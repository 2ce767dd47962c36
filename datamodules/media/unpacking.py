"""Zips of videos, images and subtitles, as the Hugging Face hub has them, unpacked where they lie.

Nothing is written outside the folder of a zip, and no larger than the zip says.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final
from zipfile import ZipFile, ZipInfo

from rich import print as say

from datamodules.media.archive import DAMAGE
from datamodules.media.paths import check_folder
from datamodules.media.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from datamodules.samples import BadSample
from vlynx_pl.io.files import atomic_file, stays_inside
from vlynx_pl.io.progress import track

_UNPACKED: Final = VIDEO_SUFFIXES | IMAGE_SUFFIXES | {".srt"}
_AGAIN: Final = "Download it again"


def unpack(folder: Path) -> None:
    """Unpack every zip of a folder and of the folders in it, each beside itself.

    A file that is there already is left as it is, so that an interrupted call can be repeated. Zips
    are kept.

    Args:
        folder: of a download, such as that of VideoMME.

    Raises:
        BadSample: there is no zip; or one is damaged or encrypted, does not fit the disk, or has a
            member outside its folder.
        OSError: a file cannot be written.
    """
    check_folder(folder, "Give the folder of the download")
    archives = zips(folder)
    if not archives:
        raise BadSample(folder, "holds no *.zip", "Give the folder of the download", "missing")
    for archive in archives:
        with _opened(archive) as opened:
            packed = _packed(archive, opened)
            _check_disk(archive, packed)
            for member in track(packed, f"Unpacking {archive.name}"):
                with (
                    opened.open(member) as source,
                    atomic_file(archive.parent / member.filename) as unfinished,
                    unfinished.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
        say(f"{archive}: {len(packed)} unpacked")


def zips(folder: Path) -> list[Path]:
    """The zips of a folder and of the folders in it."""
    return sorted([*folder.glob("*.zip"), *folder.glob("*/*.zip")])


def count_packed(archive: Path) -> int:
    """The number of files of a zip that are not unpacked; raises BadSample as ``unpack`` does."""
    with _opened(archive) as opened:
        return len(_packed(archive, opened))


@contextmanager
def _opened(archive: Path) -> Iterator[ZipFile]:
    try:
        with ZipFile(archive) as opened:
            yield opened
    except BadSample:
        raise
    except DAMAGE as error:
        raise BadSample(archive, f"is not a zip file that can be read ({error})", _AGAIN) from error


def _packed(archive: Path, opened: ZipFile) -> list[ZipInfo]:
    """The files that are not there."""
    packed = []
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        if not stays_inside(archive.parent, member.filename) or "\\" in member.filename:
            raise BadSample(
                archive, f"names {member.filename!r:.80}, which leads out of it", _AGAIN
            )
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        wanted = path.suffix.lower() in _UNPACKED and not hidden and not member.is_dir()
        if wanted and not (archive.parent / path).exists():
            packed.append(member)
    return packed


def _check_disk(archive: Path, packed: list[ZipInfo]) -> None:
    size, free = sum(one.file_size for one in packed), shutil.disk_usage(archive.parent).free
    if size > free:
        reason = f"unpacks to {size / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left"
        raise BadSample(archive, reason, "Free some space, or move the download")
