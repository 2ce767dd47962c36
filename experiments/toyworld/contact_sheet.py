"""Panels of a contact sheet, which shows what a toy world contains."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pairs_of_panels(
    figure: "Figure", rows: int, columns: int, height: float, widths: Sequence[int] = (1, 1)
) -> list[Any]:
    """Split a figure into ``rows`` × ``columns`` pairs of panels without axes.

    Args:
        figure: the figure.
        rows: pairs from top to bottom.
        columns: pairs from left to right.
        height: of a row, in inches.
        widths: of the two panels of a pair, relative to each other.
    """
    figure.set_size_inches(columns * 4.2, rows * height)
    axes = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[*widths] * columns)
    for axis in axes.flat:
        axis.axis("off")
    return [row[2 * k : 2 * k + 2] for row in axes for k in range(columns)]


def show(axis: "Axes", frame: Tensor, aspect: Literal["equal", "auto"] = "equal") -> None:
    """Draw a frame, uint8 (3, H, W)."""
    axis.imshow(frame.permute(1, 2, 0).numpy(), aspect=aspect)


def title(axis: "Axes", text: str, answer: str, width: int) -> None:
    """Write a question and its answer above a panel, in lines of at most ``width`` characters."""
    axis.set_title(f"{fill(text, width)}\n{answer}", fontsize=7)
