"""Undamaged inputs: a folder of files, one of which will be damaged, and its readings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Final, NamedTuple

OUTSIDE: Final = "OUTSIDE"
"""In damaged files, stands for the absolute path of a folder that no reader may open."""


class Original(NamedTuple):
    """A folder and its readings.

    Args:
        kind: a key of ``damages.DAMAGES``.
        name: the file to damage.
        files: path in the folder → content.
        readings: functions that read the folder.
        media: the names of media in an annotation file, as written there.
    """

    kind: str
    name: str
    files: Mapping[str, bytes]
    readings: tuple[Callable[[Path], None], ...]
    media: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        """The content of the file to damage."""
        return self.files[self.name]

    def write(self, folder: Path, outside: Path, content: bytes | None = None) -> None:
        """Write the folder anew, with other content for the file if given."""
        if folder.exists():
            rmtree(folder)
        write_files(folder, self.files)
        if content is not None:
            own = content.replace(OUTSIDE.encode(), str(outside).encode())
            (folder / self.name).write_bytes(own)
        if self.media:  # links that a name may follow to the outside
            for name, target in {
                "link": outside,
                "linked": outside / "secret",
                "linked.mp4": outside / "secret.mp4",
                "bare.mkv": outside / "secret.mp4",
                "round": "round",
            }.items():
                (folder / "media" / name).symlink_to(target)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return path in the folder → content of all files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
