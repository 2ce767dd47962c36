"""Data for the tests of callbacks."""

import json
from pathlib import Path

import pytest

from tests.datamodules.conftest import write_scannet_scene


@pytest.fixture
def data(tmp_path) -> Path:
    """Three scenes with annotations of ScanQA; the test split also names a missing scene."""
    root = tmp_path / "data"
    for number in range(3):
        write_scannet_scene(root / "scans" / f"scene000{number}_00", range(4))
    for split, scenes in (("train", "01"), ("val", "2"), ("test_w_obj", "29")):
        records = [
            {
                "scene_id": f"scene000{scene}_00",
                "question_id": f"{split}-{scene}-{i}",
                "question": f"What colour is the {thing}?",
                "answers": ["grey"],
                "object_ids": [],
                "object_names": [],
            }
            for scene in scenes
            for i, thing in enumerate(("wall", "floor"))
        ]
        (root / f"ScanQA_v1.0_{split}.json").write_text(json.dumps(records))
    return root
