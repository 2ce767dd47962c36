"""What a protocol computes of a set of answers: figures by name, some of which are means."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

Figures: TypeAlias = dict[str, float]


class Value(NamedTuple):
    """What one question adds to a figure, in the figure's unit."""

    question: str
    clip: str
    value: float


class Mean(float):
    """A figure that is the mean of its questions' values, or the mean of such means over groups.

    It keeps the values, so that its interval can be computed.

    Args:
        figure: as the protocol computes it.
        groups: the values of each group; one group for a plain mean.
    """

    groups: tuple[Sequence[Value], ...]

    def __new__(cls, figure: float, *groups: Sequence[Value]) -> "Mean":
        mean = super().__new__(cls, figure)
        mean.groups = groups
        return mean


class NoFigure(float):
    """NaN in place of a figure that could not be computed, with the reason and a remedy."""

    reason: str

    def __new__(cls, reason: str) -> "NoFigure":
        figure = super().__new__(cls, "nan")
        figure.reason = reason
        return figure
