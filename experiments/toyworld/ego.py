"""The ego world: takes with one egocentric view and up to four from the corners of the room.

Annotations have the format of Ego-Exo4D's demonstrator proficiency benchmark. As in the original,
the test file lists takes and withholds their labels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from experiments.toyworld.contact_sheet import show
from experiments.toyworld.files import write_json
from experiments.toyworld.render import SIZE
from experiments.toyworld.takes import (
    BALLS,
    CAMERAS,
    FPS,
    SKILLS,
    ToyTake,
    render_ego,
    render_exo,
    sample_take,
)
from experiments.toyworld.video_files import write_video

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4  # egocentric frames


def make(out: Path, seed: int, index: int) -> ToyTake:
    """Write ``takes/<name>/frame_aligned_videos/``."""
    take = sample_take(seed, index)
    views = {f"exo{camera}": frames for camera, frames in render_exo(take).items()}
    views["ego"] = render_ego(take)
    for view, path in video_paths(take).items():
        write_video(out / path, views[view], FPS)
    return take


def annotate(out: Path, splits: Mapping[Split, Sequence[ToyTake]]) -> None:
    """Write a file of the proficiency benchmark for each split."""
    files: dict[str, object] = {
        f"annotations/proficiency_demonstrator_{split}.json": {
            "annotations": [_record(take) for take in splits[split]]
        }
        for split in ("train", "val")
    }
    names = [take.name for take in splits["test"]]
    write_json(out, files | {"annotations/demonstrator_proficiency_test_v2.json": names})


def video_paths(take: ToyTake) -> dict[str, str]:
    """View → path in the data root, for the views that were filmed."""
    folder = f"takes/{take.name}/frame_aligned_videos"
    exo = {f"exo{camera}": f"{folder}/cam{camera:02d}.mp4" for camera in take.cameras}
    return {"ego": f"{folder}/aria01_214-1.mp4"} | exo


def draw(figure: "Figure", out: Path, facts: Sequence[ToyTake]) -> None:
    """Draw one take of every skill: some egocentric frames, and one frame of each camera."""
    latest = {take.skill: take for take in facts}
    shown = [latest[skill] for skill in SKILLS if skill in latest]
    views = [f"exo{camera}" for camera in CAMERAS]
    figure.set_size_inches(13, 1.75 * len(shown))
    figure.suptitle("Toy world ego: four moments of the player's view, one of each camera")
    grid = figure.subplots(len(shown), _SHOWN + len(views), squeeze=False)
    for row, take in zip(grid, shown, strict=True):
        frames = {
            view: read_video(out / path, [Request(Uniform(_SHOWN))]).streams[0].pixels
            for view, path in video_paths(take).items()
        }
        row[0].set_ylabel(take.skill)
        for axis in row:
            axis.set(xticks=[], yticks=[])
        for axis, frame in zip(row, frames["ego"], strict=False):
            show(axis, frame)
            axis.plot((SIZE - 1) / 2, (SIZE - 1) / 2, "w+")
        for axis, view in zip(row[_SHOWN:], views, strict=True):
            if view in frames:
                show(axis, frames[view][0])
                axis.set_title(view, fontsize=8)
            else:
                axis.text(0.5, 0.5, f"no {view}", ha="center", fontsize=8)
                axis.set_frame_on(False)


def _record(take: ToyTake) -> dict[str, Any]:
    return {
        "task_id": 9001 + list(BALLS).index(take.scenario),
        "task_name": f"{take.scenario} Drills - Eye on the Ball",
        "scenario_name": take.scenario,
        "university_id": "toyworld",
        "origin_participant_id": str(take.scene.index),
        "take_uid": str(uuid5(NAMESPACE_URL, take.name)),
        "video_paths": video_paths(take),
        "proficiency_score": take.skill,
    }
