"""Unpacking a zip of a scene in ScanNet's layout that a stranger has sent.

Only the files of the layout are written, under names of our own folders; the sizes that the archive
states are not believed.
"""

import re
import struct
import zlib
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from datamodules.samples import BadSample

_MOST_FILES: Final = 60_000  # the longest scene has 5,900 frames, of three files each
_LAYOUT: Final = re.compile(
    r"(?P<above>(?:[^/]+/)*?)"
    r"(?P<place>(?:color|depth|pose|intrinsics?)/)?"
    r"(?P<name>[\w-]+\.(?:jpg|png|txt))",
    re.ASCII | re.IGNORECASE,
)
DAMAGE: Final = (
    BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What zipfile raises for a file that is damaged, encrypted or unusual."""
_AGAIN: Final = "Zip the scene's folder again: color/, depth/, pose/ and intrinsic/"


def extract_scene(archive: Path, folder: Path, most: int) -> Path:
    """Write the scene of an archive into a folder.

    The scene may be in folders of the archive, as zipping a folder puts it. Other files are left
    out, such as instance labels.

    Args:
        archive: the zip file.
        folder: an empty one.
        most: bytes that may be written.

    Returns:
        The folder.

    Raises:
        BadSample: the archive is damaged, encrypted or too large, names something outside itself,
            or holds no scene or several.
    """
    try:
        with ZipFile(archive) as opened:
            for member, name in _members(archive, opened).items():
                most -= _copy(archive, opened, member, folder / name, most)
    except BadSample:
        raise
    except (*DAMAGE, OSError) as error:
        raise BadSample(archive, f"is not a zip file that can be read ({error})", _AGAIN) from error
    return folder


def _members(archive: Path, opened: ZipFile) -> dict[ZipInfo, str]:
    """The files of the scene → their paths in its folder."""
    listed = opened.infolist()
    if len(listed) > _MOST_FILES:
        raise BadSample(archive, f"holds {len(listed)} files; {_MOST_FILES} are read", _AGAIN)
    found: dict[str, dict[ZipInfo, str]] = {}  # folder of a scene → its files
    for member in listed:
        name = member.filename
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
            raise BadSample(archive, f"names {name!r:.80}, which leads out of it", _AGAIN)
        if (parts := _LAYOUT.fullmatch(name)) and (parts["place"] or "intrinsic" in parts["name"]):
            scene = found.setdefault(parts["above"], {})
            scene[member] = (parts["place"] or "").lower() + parts["name"]
    scenes = [above for above, files in found.items() if "color" in _places(files)]
    if len(scenes) != 1:
        raise BadSample(archive, f"holds {len(scenes)} scenes in ScanNet's layout, not one", _AGAIN)
    files = found[scenes[0]]
    if len(set(files.values())) < len(files):
        raise BadSample(archive, "holds two files of the same name", _AGAIN)
    return files


def _places(files: dict[ZipInfo, str]) -> set[str]:
    return {name.split("/")[0] for name in files.values()}


def _copy(archive: Path, opened: ZipFile, member: ZipInfo, path: Path, most: int) -> int:
    """Write a file; return its size in bytes."""
    if member.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise BadSample(archive, "is compressed in an unusual way", f"{_AGAIN}, with deflate")
    path.parent.mkdir(exist_ok=True)
    written = 0
    with opened.open(member) as source, path.open("xb") as target:
        while piece := source.read(2**20):
            written += len(piece)
            if written > most:
                reason = f"unpacks to more than the limit, at {member.filename!r:.80}"
                raise BadSample(archive, reason, "Send fewer or smaller frames")
            target.write(piece)
    return written
