"""Where information is lost in the vision encoder: what is left, layer by layer, of the differences
between samples, in the keys, values and answers of attention.

``python -m experiments.paper.collapse [--runs runs/paper] [--seed 1]``, after the components table
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.paper.report import write_csv
from experiments.paper.study import SENSES, Alignment, Place
from experiments.paper.tables import ABLATED
from vlynx_pl.attention import AttentionCall, listen
from vlynx_pl.backbones import VideoBackbone, load_backbone
from vlynx_pl.files import atomic_file
from vlynx_pl.guidance import moments
from vlynx_pl.saved_adapters import saved_config

_BACKBONE: Final = Path("experiments/miniature")
_CLIPS: Final = 128
_PARTS: Final[dict[str, Callable[[AttentionCall], Tensor]]] = {
    "keys": lambda call: call.key,
    "values": lambda call: call.value,
    "answers": lambda call: call.context,
}
_LOSSES: Final = {"L_attn": "attn", "L_stat": "stat", "both": "full"}


def spread(
    backbone: VideoBackbone, frames: Sequence[Tensor], adapter: str | None
) -> dict[str, list[float]]:
    """Part of attention → layer → variance between samples at a position, over all channels."""
    layers = backbone.attention_layers()
    seen: dict[str, list[list[Tensor]]] = {part: [[] for _ in layers] for part in _PARTS}

    def note(call: AttentionCall) -> None:
        for part, of in _PARTS.items():
            seen[part][call.layer].append(of(call).flatten(1).double())  # (F, ...)

    with torch.no_grad(), listen(layers, note):
        for batch in frames:
            backbone.encode(batch, adapter)
    found = {}
    for part, every in seen.items():
        sums = [moments(torch.cat(rows)).view(3, -1) for rows in every]
        found[part] = [float((deviation / count).sum()) for count, _, deviation in sums]
    return found


def measure(sense: str, place: Place, seed: int) -> dict[str, dict[str, list[float]]]:
    """Stream → part → layer → what is left, as a share of RGB video's."""
    backbone = load_backbone(str(_BACKBONE), "float32")
    data = Alignment(sense, seed).data(place, backbone.frame_size)
    count = -(-_CLIPS // data.batch_size)
    pictures = [batch["frames"] for batch in islice(data.val_dataloader(), count)]
    videos = [batch["frames"] for batch in data.reference_dataloader(range(_CLIPS))]
    video = spread(backbone, videos, None)
    streams = {"untouched": spread(backbone, pictures, None)}
    for loss, label in _LOSSES.items():
        folder = Alignment(sense, seed, label).adapter(place)
        backbone.load_vision_adapter(label, saved_config(folder))
        streams[f"aligned by {loss}"] = spread(backbone, pictures, label)
    return {
        stream: {part: [a / b for a, b in zip(of[part], video[part], strict=True)] for part in of}
        for stream, of in streams.items()
    }


def main() -> None:
    """Measure the senses of the components table, draw them, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/paper"))
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--out", type=Path, default=Path("experiments/paper/collapse.png"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    place = Place(options.data, options.runs)
    found = {sense: measure(sense, place, options.seed) for sense in ABLATED}
    for sense, streams in found.items():
        table = Table(*("", *_PARTS), title=f"{SENSES[sense].title}: % of RGB video's, by layer")
        for stream, parts in streams.items():
            shares = [" ".join(f"{100 * share:.0f}" for share in of) for of in parts.values()]
            table.add_row(stream, *shares)
        Console().print(table)
    lines = [
        {"sense": sense, "stream": stream, "part": part, "layer": layer, "share of RGB's": share}
        for sense, streams in found.items()
        for stream, parts in streams.items()
        for part, shares in parts.items()
        for layer, share in enumerate(shares, 1)
    ]
    write_csv(options.out.with_suffix(".csv"), lines)
    draw(found, options.out)


def draw(found: dict[str, dict[str, dict[str, list[float]]]], path: Path) -> None:
    """A panel a sense and part: what is left against the layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.5 * len(found)), layout="constrained")
    grid = figure.subplots(len(found), len(_PARTS), sharex=True, sharey=True, squeeze=False)
    for panels, (sense, streams) in zip(grid, found.items(), strict=True):
        for panel, part in zip(panels, _PARTS, strict=True):
            for stream, parts in streams.items():
                layers = range(1, len(parts[part]) + 1)
                panel.plot(layers, [100 * share for share in parts[part]], "o-", label=stream)
            panel.axhline(100, color="black", linewidth=0.8, linestyle=":")
            panel.set(yscale="log", title=f"{SENSES[sense].title}: {part}", xticks=list(layers))
        panels[0].set_ylabel("% of RGB video's")
    for panel in grid[-1]:
        panel.set_xlabel("layer")
    grid[0, 0].legend(fontsize=7)
    figure.suptitle("Variance between samples that is left in the vision encoder's attention")
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


if __name__ == "__main__":
    main()
