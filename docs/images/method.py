"""Draw the method: python docs/images/method.py writes docs/images/method.png."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FROZEN, TRAINED, DATA, TEXT = "#dfe6ee", "#ffd9a8", "#ffffff", "#22303c"
VIDEO, MODALITY = "#3566a8", "#c0631a"


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, fill: str) -> None:
    """A rounded box with its lower left corner at (x, y)."""
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.12", fc=fill, ec=TEXT)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=TEXT, size=10.5)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow in the colour of what flows along it."""
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=colour, lw=1.8)
    )


def main() -> None:
    """Two lanes through one frozen encoder, guidance between them, and the LLM at the end."""
    figure, axes = plt.subplots(figsize=(11, 3.9))
    axes.set(xlim=(0, 22), ylim=(0, 7.6))
    axes.axis("off")

    box(axes, 0.2, 5.2, 3.4, 1.5, "RGB video", DATA)
    box(axes, 0.2, 0.9, 3.4, 1.5, "audio, depth,\nfast frames,\negocentric view", DATA)
    box(axes, 4.7, 0.9, 2.3, 1.5, "drawn\nas frames", DATA)
    box(axes, 8.1, 4.9, 3.9, 2.1, "vision encoder\n+ projector", FROZEN)
    box(axes, 8.1, 0.6, 3.9, 2.1, "the same encoder\n+ projector", FROZEN)
    box(axes, 8.5, 0.15, 3.1, 0.75, "LoRA", TRAINED)
    box(axes, 8.1, 3.3, 3.9, 0.95, "guidance", DATA)
    box(axes, 13.4, 5.2, 2.4, 1.5, "video\ntokens", DATA)
    box(axes, 13.4, 0.9, 2.4, 1.5, "modality\ntokens", DATA)
    box(axes, 13.4, 3.3, 2.4, 0.95, "question", DATA)
    box(axes, 17.3, 2.7, 2.3, 2.1, "LLM", FROZEN)
    box(axes, 17.5, 2.2, 1.9, 0.75, "LoRA", TRAINED)

    arrow(axes, (3.6, 5.95), (8.1, 5.95), VIDEO)
    arrow(axes, (12.0, 5.95), (13.4, 5.95), VIDEO)
    arrow(axes, (10.05, 4.9), (10.05, 4.25), VIDEO)
    arrow(axes, (15.8, 5.6), (17.5, 4.8), VIDEO)
    arrow(axes, (3.6, 1.65), (4.7, 1.65), MODALITY)
    arrow(axes, (7.0, 1.65), (8.1, 1.65), MODALITY)
    arrow(axes, (12.0, 1.65), (13.4, 1.65), MODALITY)
    arrow(axes, (15.8, 1.95), (17.4, 2.75), MODALITY)
    arrow(axes, (15.8, 3.77), (17.3, 3.77), TEXT)
    arrow(axes, (19.6, 3.77), (20.6, 3.77), TEXT)
    axes.text(20.7, 3.77, "answer", ha="left", va="center", color=TEXT, size=10.5)
    arrow(axes, (10.05, 3.3), (10.05, 2.7), MODALITY)
    axes.text(10.3, 3.0, "match: L_attn, L_stat", va="center", color=MODALITY, size=9.5)

    axes.text(0.2, 7.1, "1  guidance, once", color=VIDEO, size=10, weight="bold")
    axes.text(0.2, 2.8, "2  interface alignment", color=MODALITY, size=10, weight="bold")
    axes.text(17.8, 5.15, "3  instruction tuning", color=TEXT, size=10, weight="bold")
    for y, fill, name in ((0.95, FROZEN, "frozen"), (0.3, TRAINED, "trained")):
        box(axes, 19.3, y, 0.5, 0.4, "", fill)
        axes.text(20.0, y + 0.2, name, va="center", color=TEXT, size=9.5)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
