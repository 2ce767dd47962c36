"""The toy worlds by name, and what each of their modules defines.

A world makes its clips one by one, in worker processes. From the facts that ``make`` returns it
writes the annotation files and draws a contact sheet.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from datamodules.samples import Split
from experiments.toyworld import blinking_rooms, ego, rooms, sounding_rooms
from experiments.toyworld.sensed_rooms import SENSED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class World(Protocol):
    """One toy world; everything follows from the arguments, byte for byte."""

    def make(self, out: Path, seed: int, index: int) -> Any:
        """Write the media of clip ``index`` under ``out``, each file complete or absent.

        Returns:
            Facts about the clip, from which questions follow; they can be pickled.
        """

    def annotate(self, out: Path, splits: Mapping[Split, Sequence[Any]]) -> None:
        """Write the annotation files, given the facts of each split's clips."""

    def draw(self, figure: "Figure", out: Path, facts: Sequence[Any]) -> None:
        """Draw some clips of the world in ``out`` with questions and answers."""


WORLDS: Final[Mapping[str, World]] = {
    "3d": rooms,
    "audio": sounding_rooms,
    "highfps": blinking_rooms,
    "ego": ego,
    **SENSED,
}
