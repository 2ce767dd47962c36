"""The figure of the guidance's dominance (paper, Figure B2), with the variances beside it."""

from collections.abc import Mapping
from typing import Final

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlynx_pl.analysis.dominance import LayerDominance

_VARIANCES: Final = {
    "frames": ("between frames", "tab:orange"),
    "videos": ("between videos", "tab:olive"),
    "sources": ("between guidances", "tab:blue"),
    "chance": ("between means of as many frames, by chance", "0.6"),
}


def draw_dominance(found: Mapping[str, LayerDominance]) -> Figure:
    """Draw magnitude, variances and dominance of each layer: a row for keys, one for values."""
    figure = Figure(figsize=(14, 3.6 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), 3, squeeze=False)
    for (magnitude, variance, ratio), (part, one) in zip(grid, found.items(), strict=True):
        layers = range(1, len(one.magnitude) + 1)
        magnitude.bar(layers, one.magnitude.tolist(), color="tab:blue")
        magnitude.set(title=f"Magnitude of the mean {part}", ylabel="mean absolute value")
        _draw_variances(variance, one)
        variance.set(title=f"Variance of {part}", ylabel="mean over elements")
        known = one.dominance.where(one.dominance.isfinite(), torch.nan)
        ratio.bar(layers, known.tolist(), color="tab:blue")
        ratio.set(title=f"Dominance: magnitude / variance between guidances, {part}")
        if known.isnan().all():
            ratio.text(
                0.5, 0.5, "needs guidances that differ", ha="center", transform=ratio.transAxes
            )
        for axes in (magnitude, variance, ratio):
            axes.set_xlabel("vision layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_variances(axes: Axes, one: LayerDominance) -> None:
    known = [name for name in _VARIANCES if (getattr(one, name) > 0).any()]
    layers = torch.arange(1, len(one.magnitude) + 1)
    width = 0.8 / max(1, len(known))
    for place, name in enumerate(known):
        label, colour = _VARIANCES[name]
        places = (layers + (place - (len(known) - 1) / 2) * width).tolist()
        axes.bar(places, getattr(one, name).tolist(), width, color=colour, label=label)
    if known:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 2, high * 30)  # room for the legend
        axes.legend(fontsize=8, loc="upper right")
