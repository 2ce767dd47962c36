"""The world of rooms with depth: scenes in ScanNet's layout, questions of ScanQA and SQA3D."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.samples import Split
from experiments.toyworld.annotations import SCANQA_FILES, scanqa, sqa3d
from experiments.toyworld.contact_sheet import save_contact_sheet
from experiments.toyworld.files import write_scene
from experiments.toyworld.scene import Scene, sample_scene

_SHOWN = 12


@dataclass(frozen=True)
class Rooms:
    """Rooms in colour and depth.

    Args:
        frames: frames a scene.
    """

    frames: int = 4
    name: str = "3d"

    def make(self, out: Path, seed: int, index: int, size: int) -> Scene:
        """Write ``scans/<name>/``."""
        scene = sample_scene(seed, index, self.frames)
        write_scene(scene, out / "scans" / scene.name, size)
        return scene

    def annotate(self, out: Path, split: Split, facts: Sequence[Scene]) -> None:
        """Write the scenes' names, ScanQA's file and SQA3D's two."""
        names = [scene.name for scene in facts]
        (out / f"scannetv2_{split}.txt").write_text("".join(f"{name}\n" for name in names))
        files: dict[str, object] = {
            SCANQA_FILES[split]: scanqa(facts, split),
            **sqa3d(facts, split),
        }
        for name, content in files.items():
            (out / name).write_text(json.dumps(content))
        listed = out / "scene_split.json"
        before = json.loads(listed.read_text()) if listed.exists() else {}
        listed.write_text(json.dumps(before | {split: names}))

    def draw(self, facts: Sequence[Scene], out: Path, path: Path, size: int) -> None:
        """Draw colour and depth of some rooms."""
        # A scene with one object in one distance band has no comparison to show.
        shown = [scene for scene in facts if len(scene.objects) > 1][:_SHOWN]
        save_contact_sheet(shown, path, size)
