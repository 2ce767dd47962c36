"""The picture of a question: frames of each stream, and where the LLM looks in them (Figure 4)."""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, Final, NamedTuple

import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from vlynx_pl.io.files import readable

_SHOWN: Final = 3  # frames of each stream, at most
_SIDE: Final = 1.7  # of a frame, in inches
_LABEL: Final = 2.3  # width of the labels on the left, in inches
_BAR: Final = 1.05  # width of the colour bar, in inches
_FLAT: Final = 1.05  # least range of a colour scale, so that rounding errors are not drawn


class MapRow(NamedTuple):
    """A row of the picture: a layer, for one way of reading the modalities."""

    label: str
    shares: Mapping[str, float]  # stream or text → its share of all attention
    maps: Mapping[str, Tensor]  # stream → (T, N), relative to the neutral question


def draw_attention(
    title: Sequence[str],
    streams: Mapping[str, tuple[Tensor, Sequence[float]]],
    rows: Sequence[MapRow],
    grid: tuple[int, int],
) -> Figure:
    """Draw frames of each stream, and below them a row of maps for each layer.

    Each row has a colour scale of its own, the same for all of its maps: 1 is the attention that
    the neutral question pays.

    Args:
        title: lines above the picture.
        streams: name → uint8 (T, 3, H, W), a frame for each of the T timestamps in s.
        rows: at least one.
        grid: (rows, columns) of the tokens of a frame; maps of one token per frame have no grid.
    """
    shown = {name: _evenly(len(times)) for name, (_, times) in streams.items()}
    columns = sum(map(len, shown.values()))
    lines = [line for text in title for line in wrap(readable(text), 14 * columns + 24)]
    head = 0.35 + 0.2 * len(lines)
    width = _LABEL + columns * (_SIDE + 0.08) + _BAR
    height = head + (1 + len(rows)) * (_SIDE + 0.12)
    figure = Figure(figsize=(width, height))
    figure.text(0.015, 1 - 0.1 / height, "\n".join(lines), va="top", fontsize=10, parse_math=False)
    axes = figure.subplots(1 + len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        _LABEL / width, 0.08 / height, 1 - _BAR / width, 1 - head / height, 0.05, 0.08
    )
    for panel in axes.flat:
        panel.axis("off")
    places = [(name, frame) for name, frames in shown.items() for frame in frames]
    for panel, (name, frame) in zip(axes[0], places, strict=True):
        pixels, times = streams[name]
        panel.imshow(pixels[frame].permute(1, 2, 0).numpy())
        panel.set_title(f"{name}, {times[frame]:.2f} s", fontsize=9, parse_math=False)
    for panels, row in zip(axes[1:], rows, strict=True):
        _draw_row(figure, panels, row, streams, places, grid)
    return figure


def _draw_row(
    figure: Figure,
    panels: Sequence[Any],
    row: MapRow,
    streams: Mapping[str, tuple[Tensor, Sequence[float]]],
    places: Sequence[tuple[str, int]],
    grid: tuple[int, int],
) -> None:
    values = torch.cat([row.maps[name][frame] for name, frame in places if name in row.maps])
    drawable = values[values.isfinite() & (values > 0)].log().abs()
    limit = max(_FLAT, drawable.max().exp().item() if len(drawable) else 1)
    norm = LogNorm(1 / limit, limit)
    image = None
    for panel, (name, frame) in zip(panels, places, strict=True):
        if name not in row.maps:
            panel.text(0.5, 0.5, "not read", ha="center", transform=panel.transAxes, color="0.5")
            continue
        pixels = streams[name][0][frame].float().mean(0).numpy()
        height, width = pixels.shape
        panel.imshow(0.7 * pixels + 60, cmap="gray", vmin=0, vmax=255)
        found = row.maps[name][frame]
        found = found.view(grid if math.prod(grid) == len(found) else (1, -1))
        # Frames show through where the LLM looks as it does for the neutral question.
        strength = found.log().abs().nan_to_num().div(math.log(limit)).clamp(0, 1)
        image = panel.imshow(
            found.numpy(),
            "RdBu_r",
            norm=norm,
            alpha=(0.15 + 0.65 * strength).numpy(),
            extent=(0, width, height, 0),
        )
    shares = "\n".join(f"{name} {share:.0%}" for name, share in row.shares.items())
    box = panels[0].get_position()
    middle = (box.y0 + box.y1) / 2
    figure.text(0.015, middle, f"{row.label}\n{shares}", va="center", fontsize=9, parse_math=False)
    if image is not None:
        edge = panels[-1].get_position().x1
        bar = figure.add_axes((edge + 0.01, box.y0, 0.012, box.height))
        ticks = [1 / limit, 1, limit]
        figure.colorbar(image, bar, ticks=ticks, format="{x:.2g}×")
        bar.minorticks_off()


def _evenly(count: int) -> list[int]:
    shown = min(_SHOWN, count)
    return torch.linspace(0, count - 1, shown).round().long().tolist() if shown else []
