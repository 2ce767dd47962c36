"""Pictures of streams: their tokens in a plane (paper, Figure 2), their names, and their layers."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any, Final

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from vlynx_pl.io.errors import UserError

_KNOWN: Final = {"vocabulary": "tab:olive", "video": "0.45"}
_OTHERS: Final = ("tab:orange", "tab:blue", "tab:red", "tab:purple", "tab:brown", "tab:cyan")
_PERPLEXITY: Final = 30


def principal_plane(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean (D,), the first two principal axes (D, 2) of rows (R, D), and their shares (2,).

    Signs are fixed: the largest loading of an axis is positive.
    """
    mean = rows.mean(0)
    spectrum, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    axes = axes[:, [-1, -2]]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return mean, axes * largest.sign(), spectrum[[-1, -2]] / spectrum.sum()


def draw_interface(streams: Mapping[str, Tensor], tsne: bool) -> Figure:
    """Draw unit vectors of streams in the plane of all of them, and in that of video.

    Raw vectors of words and of frames are told apart by their lengths alone.

    Args:
        streams: name → rows (R, D), with ``video``.
        tsne: also draw t-SNE, see :func:`import_tsne`.
    """
    units = {name: normalize(rows.double()) for name, rows in streams.items()}
    panels = 3 if tsne else 2
    figure = Figure(figsize=(6.2 * panels, 5.6), layout="constrained")
    colours = stream_colours([*units])
    every = torch.cat([*units.values()])
    axes = figure.subplots(1, panels)
    for panel, what, fitted in zip(
        axes, ("all streams", "video alone"), (every, units["video"]), strict=False
    ):
        mean, plane, shares = principal_plane(fitted)
        _scatter(panel, {name: (rows - mean) @ plane for name, rows in units.items()}, colours)
        first, second = (f"{share:.0%} of its variance" for share in shares.tolist())
        panel.set(title=f"PCA of {what}", xlabel=first, ylabel=second)
    if tsne:
        places = dict(
            zip(units, torch.split(_tsne(every), [*map(len, units.values())]), strict=True)
        )
        _scatter(axes[2], places, colours)
        axes[2].set(title="t-SNE", xlabel="distances between islands mean nothing")
        axes[2].set(xticks=[], yticks=[])
    figure.suptitle("Tokens at the LLM's input, as unit vectors")
    for shown in axes[0].legend(markerscale=3).legend_handles:
        shown.set_alpha(1)
    return figure


def draw_names(streams: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the commonest names of each stream, with their shares of its tokens."""
    figure = Figure(figsize=(3.6 * len(streams), 3.8), layout="constrained")
    colours = stream_colours([*streams])
    panels = figure.subplots(1, len(streams), squeeze=False)[0]
    most = max(map(len, streams.values()))
    for panel, (stream, shares) in zip(panels, streams.items(), strict=True):
        places = range(len(shares))
        panel.barh(places, [100 * share for share in shares.values()], color=colours[stream])
        panel.set_yticks(places, [*shares], parse_math=False)
        panel.set_ylim(most - 0.4, -0.6)  # the commonest on top, and bars of one width
        panel.set(title=stream, xlabel="% of tokens")
    figure.suptitle("The nearest word of the vocabulary")
    return figure


def draw_layers(streams: Mapping[str, Mapping[str, list[float]]]) -> Figure:
    """Draw the variance that each layer leaves: stream → part of attention → share of video's."""
    parts = [*next(iter(streams.values()))]
    figure = Figure(figsize=(4.4 * len(parts), 3.8), layout="constrained")
    panels = figure.subplots(1, len(parts), sharey=True)
    colours = stream_colours([*streams])
    for panel, part in zip(panels, parts, strict=True):
        for stream, shares in streams.items():
            layers = range(1, len(shares[part]) + 1)
            percent = [100 * share for share in shares[part]]
            panel.plot(layers, percent, "o-", ms=3, label=stream, color=colours[stream])
        panel.set(title=part.capitalize(), xlabel="vision layer")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("% of video's variance between frames")
    panels[0].legend()
    return figure


def stream_colours(streams: list[str]) -> dict[str, str]:
    """A colour for each stream."""
    others = cycle(_OTHERS)
    return {name: _KNOWN.get(name) or next(others) for name in streams}


def _scatter(panel: Axes, places: Mapping[str, Tensor], colours: Mapping[str, str]) -> None:
    for name, points in places.items():
        x, y = points.T.numpy()
        panel.scatter(x, y, s=5, alpha=0.35, lw=0, color=colours[name], label=name)


def _tsne(rows: Tensor) -> Tensor:
    mean = rows.mean(0)
    _, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    perplexity = min(_PERPLEXITY, len(rows) // 4)
    made = import_tsne()(init="pca", perplexity=perplexity, random_state=0)
    return torch.from_numpy(made.fit_transform(((rows - mean) @ axes[:, -50:]).numpy()))


def import_tsne() -> Any:
    """Return scikit-learn's class; raise UserError if it is not installed."""
    try:
        from sklearn.manifold import TSNE
    except (ImportError, OSError) as error:
        raise UserError(
            f"--tsne needs scikit-learn, which cannot be used here ({error}); install it with pip "
            "install -c constraints.txt -e '.[analysis]', or leave the option out"
        ) from error
    return TSNE
