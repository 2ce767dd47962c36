"""The 3d world: rooms with depth in ScanNet's layout, with questions of ScanQA and SQA3D."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from datamodules.samples import Split
from datamodules.signals.disparity import disparity
from experiments.toyworld.contact_sheet import pairs_of_panels, show, title
from experiments.toyworld.files import write_json, write_scene
from experiments.toyworld.questions import THREE_D, questions
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import Scene, sample_scene
from experiments.toyworld.scene_annotations import SCANQA_FILES, scanqa, sqa3d

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN, _COLUMNS = 12, 4


def make(out: Path, seed: int, index: int) -> Scene:
    """Write ``scans/<name>/``."""
    scene = sample_scene(seed, index)
    write_scene(scene, out / "scans" / scene.name)
    return scene


def annotate(out: Path, splits: Mapping[Split, Sequence[Scene]]) -> None:
    """Write the names of the scenes of each split, ScanQA's file and SQA3D's two."""
    names = {split: [scene.name for scene in scenes] for split, scenes in splits.items()}
    write_json(out, {"scene_split.json": names})
    for split, scenes in splits.items():
        (out / f"scannetv2_{split}.txt").write_text("".join(f"{name}\n" for name in names[split]))
        write_json(out, {SCANQA_FILES[split]: scanqa(scenes, split), **sqa3d(scenes, split)})


def draw(figure: "Figure", out: Path, facts: Sequence[Scene]) -> None:
    """Draw colour and depth of some rooms, with a visual question and a 3D question each."""
    # A scene with one object in one distance band has no comparison to show.
    shown = [scene for scene in facts if len(scene.objects) > 1][:_SHOWN]
    pairs = pairs_of_panels(figure, -(-len(shown) // _COLUMNS), _COLUMNS, 2.7)
    for number, (scene, (left, right)) in enumerate(zip(shown, pairs, strict=False)):
        rendered = render_scene(scene)
        show(left, torch.from_numpy(rendered.colour[0]).permute(2, 0, 1))
        show(right, disparity(torch.from_numpy(rendered.depth[0].astype("float32"))))
        asked = questions(scene)
        visual = [q for q in asked if q.kind not in THREE_D]
        spatial = [q for q in asked if q.kind in THREE_D]
        for axis, kinds in ((left, visual), (right, spatial)):
            question = kinds[7 * number % len(kinds)]  # another kind in every scene
            title(axis, question.text, question.answer, 28)
    figure.suptitle("Toy world: colour, and disparity in Turbo colours (200 to 10000 mm)")
