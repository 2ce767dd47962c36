"""The toy worlds by name, and what each of them must know how to do.

A world makes its clips one by one, in worker processes; from the facts that come back it writes the
annotation files of each split and a picture of what it holds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from datamodules.samples import Split
from experiments.toyworld.ego import Takes
from experiments.toyworld.fast import BlinkingRooms
from experiments.toyworld.rooms import Rooms
from experiments.toyworld.sounding_rooms import SoundingRooms


class World(Protocol):
    """One kind of toy world; everything follows from the arguments, byte for byte."""

    @property
    def name(self) -> str:
        """What it is asked for by, and the name of its folder in ``data/toyworld``."""

    def make(self, out: Path, seed: int, index: int, size: int) -> Any:
        """Write the media of clip ``index`` under ``out``, in pictures of ``size`` × ``size``.

        No file has its final name before it is complete.

        Returns:
            Facts about the clip, from which questions follow; they can be pickled.
        """

    def annotate(self, out: Path, split: Split, facts: Sequence[Any]) -> None:
        """Write the annotation files of a split; train comes first, then val, then test."""

    def draw(self, facts: Sequence[Any], out: Path, path: Path, size: int) -> None:
        """Draw some clips of the world in ``out`` with questions and answers, as PNG."""


WORLDS: Final[Mapping[str, World]] = {
    "3d": Rooms(),
    "audio": SoundingRooms(),
    "highfps": BlinkingRooms(),
    "ego": Takes(),
}
