"""The world of takes: one view of a player's own and up to four from the corners of the room."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from experiments.toyworld.ego_annotations import ego_annotations, video_paths
from experiments.toyworld.takes import (
    CAMERAS,
    FPS,
    SKILLS,
    Take,
    render_ego,
    render_exo,
    sample_take,
)
from experiments.toyworld.video_files import write_video

_MOMENTS = 4


@dataclass(frozen=True)
class Takes:
    """Ball games seen by the player and by others."""

    name: str = "ego"

    def make(self, out: Path, seed: int, index: int, size: int) -> Take:
        """Write ``takes/<name>/frame_aligned_videos/``."""
        take = sample_take(seed, index)
        exo = {f"exo{camera}": frames for camera, frames in render_exo(take, size).items()}
        views = {"ego": render_ego(take, size), **exo}
        for view, path in video_paths(take).items():
            write_video(out / path, views[view], FPS)
        return take

    def annotate(self, out: Path, split: Split, facts: Sequence[Take]) -> None:
        """Write the split's file of the proficiency benchmark."""
        for name, content in ego_annotations(facts, split).items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(json.dumps(content))

    def draw(self, facts: Sequence[Take], out: Path, path: Path, size: int) -> None:
        """Draw a take of every skill: some moments of each view."""
        from matplotlib.figure import Figure

        latest = {take.skill: take for take in facts}
        shown = [latest[skill] for skill in SKILLS if skill in latest]
        views = [f"exo{camera}" for camera in CAMERAS]
        figure = Figure(figsize=(13, 1.75 * len(shown)), layout="constrained")
        figure.suptitle("Toy world ego: four moments of the player's view, one of each camera")
        grid = figure.subplots(len(shown), _MOMENTS + len(views), squeeze=False)
        for row, take in zip(grid, shown, strict=True):
            seen = {
                view: read_video(out / path, [Request(Uniform(_MOMENTS))]).streams[0].pixels
                for view, path in video_paths(take).items()
            }
            row[0].set_ylabel(take.skill)
            for axis in row:
                axis.set(xticks=[], yticks=[])
            for axis, picture in zip(row, seen["ego"], strict=False):
                axis.imshow(picture.permute(1, 2, 0).numpy())
                axis.plot((size - 1) / 2, (size - 1) / 2, "w+")
            for axis, view in zip(row[_MOMENTS:], views, strict=True):
                if view in seen:
                    axis.imshow(seen[view][0].permute(1, 2, 0).numpy())
                    axis.set_title(view, fontsize=8)
                else:
                    axis.text(0.5, 0.5, f"no {view}", ha="center", fontsize=8)
                    axis.set_frame_on(False)
        figure.savefig(path, dpi=110, format="png")
