"""How many reference videos a guidance needs, whether it helps to choose them, and whose will do.

Distances of guidances need no training: ‖x − x'‖ / ‖x'‖ of mean keys, mean values, token mean and
token variance, and of these the mean.

``python -m experiments.paper.references``
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Final

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.paper.report import write_csv
from experiments.paper.run import prepare
from experiments.paper.study import SENSES, Alignment, Place
from experiments.paper.tables import plain
from vlynx_pl.backbones import VideoBackbone, load_backbone
from vlynx_pl.files import atomic_file
from vlynx_pl.guidance import InterfaceGuidance, estimate_guidance
from vlynx_pl.progress import track

_WORLDS: Final = ("audio", "3d", "highfps", "ego")
_SIZES: Final = (1, 4, 16, 64, 256, 512)
_BATCH: Final = 32


def distance(one: InterfaceGuidance, other: InterfaceGuidance) -> float:
    """How far a guidance is from another, as a share of the other."""
    parts = ("keys", "values", "token_mean", "token_var")
    pairs = [(getattr(one, part), getattr(other, part)) for part in parts]
    return mean(float((a - b).norm() / b.norm()) for a, b in pairs)


def k_centre(points: Tensor, count: int) -> list[int]:
    """Indices of ``count`` points (P, D), each the farthest from those before (Gonzalez 1985).

    The first is the one nearest to the mean of all.
    """
    chosen = [int((points - points.mean(0)).norm(dim=1).argmin())]
    far = (points - points[chosen[0]]).norm(dim=1)  # to the nearest one chosen
    while len(chosen) < count:
        chosen.append(int(far.argmax()))
        far = far.minimum((points - points[chosen[-1]]).norm(dim=1))
    return chosen


def reference_videos(sense: str, place: Place, frame_size: tuple[int, int]) -> Tensor:
    """All training videos of a world, (V, T, 3, H, W)."""
    data = Alignment(sense, seed=0).data(place, frame_size)
    everything = data.reference_dataloader(range(len(data.reference_names())))
    videos = [batch["frames"] for batch in track(everything, f"Reading {sense}")]
    shape = min(video.shape[1] for video in videos)
    return torch.cat([video[:, :shape] for video in videos])


def guidance_of(backbone: VideoBackbone, videos: Tensor) -> InterfaceGuidance:
    """Of videos (V, T, 3, H, W)."""
    return estimate_guidance(backbone, videos.split(_BATCH))


def measure(
    backbone: VideoBackbone, videos: Tensor, seeds: Sequence[int]
) -> list[dict[str, float]]:
    """Distances to the guidance of all videos: of so many random ones, and of as many k-centres."""
    whole = guidance_of(backbone, videos)
    with torch.no_grad():
        points = torch.cat([backbone.encode(part).mean((1, 2)) for part in videos.split(_BATCH)])
    centres = k_centre(points, len(videos))
    found = []
    for size in (size for size in _SIZES if size < len(videos)):
        orders = [
            torch.randperm(len(videos), generator=torch.Generator().manual_seed(seed))[:size]
            for seed in seeds
        ]
        random = mean(distance(guidance_of(backbone, videos[order]), whole) for order in orders)
        chosen = distance(guidance_of(backbone, videos[centres[:size]]), whole)
        found.append({"videos": size, "random": random, "k-centre": chosen})
    return found


def main() -> None:
    """Measure all worlds, print the figures, and write and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/paper"))
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--out", type=Path, default=Path("experiments/paper"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    options = parser.parse_args()
    place = Place(options.data, options.runs)
    prepare(place, [plain(world, [0], world, "raw") for world in _WORLDS])
    backbone = load_backbone("experiments/miniature", "float32")
    videos = {world: reference_videos(world, place, backbone.frame_size) for world in _WORLDS}
    found = {
        world: measure(backbone, those, options.seeds)
        for world, those in track(videos.items(), "Measuring")
    }
    whole = {world: guidance_of(backbone, those) for world, those in videos.items()}
    table = Table(*("guidance of", *_WORLDS), title="Distance of guidances, %")
    for one in _WORLDS:
        table.add_row(one, *(f"{100 * distance(whole[one], whole[o]):.1f}" for o in _WORLDS))
    Console().print(table)
    lines = [{"world": world, **line} for world, those in found.items() for line in those]
    write_csv(options.out / "guidance_size.csv", lines)
    transfer = [
        {"guidance of": one} | {other: distance(whole[one], whole[other]) for other in _WORLDS}
        for one in _WORLDS
    ]
    write_csv(options.out / "guidance_transfer.csv", transfer)
    draw(found, options.out / "guidance_size.png")


def draw(found: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """A panel a world: distance to the guidance of all videos against their number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(found), 2.8), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for panel, (world, lines) in zip(panels, found.items(), strict=True):
        for way, marker in (("random", "o-"), ("k-centre", "s-")):
            sizes, distances = zip(
                *((line["videos"], 100 * line[way]) for line in lines), strict=True
            )
            panel.plot(sizes, distances, marker, label=way)
        panel.set(xscale="log", yscale="log", title=SENSES[world].title, xlabel="videos")
    panels[0].set_ylabel("distance to all, %")
    panels[0].legend(fontsize=8)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


if __name__ == "__main__":
    main()
