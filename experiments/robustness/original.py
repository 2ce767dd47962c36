"""What an undamaged input is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OUTSIDE: Final = "OUTSIDE"
"""Stands in damaged files for the absolute path of a folder that no reader may open."""


@dataclass(frozen=True)
class Original:
    """An input: a folder of files, of which one will be damaged.

    Args:
        kind: row of the table.
        name: the file to damage.
        files: path in the folder → content, of all files.
        readings: ways to read the folder.
        media: names of media in an annotation file, as they stand there.
    """

    kind: str
    name: str
    files: Mapping[str, bytes]
    readings: tuple[Callable[[Path], None], ...]
    media: tuple[str, ...] = ()

    @property
    def content(self) -> bytes:
        """Of the file to damage."""
        return self.files[self.name]
