"""Untrusted predictions and annotations; tests/datamodules/benchmarks has their fields."""

import json
from pathlib import Path

import pytest

from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from datamodules.samples import BadSample
from tests.datamodules.conftest import write_scannet_scene, write_scannet_scenes
from tests.security.conftest import DEEP
from vlynx_pl.commands.scoring import read_predictions
from vlynx_pl.io.errors import UserError

SMALL = {"frame_size": (8, 8), "num_workers": 0}


@pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.json"])
def test_damaged_predictions(tmp_path, pickled, name):
    path = tmp_path / name
    for content in (pickled, DEEP, b'{"id":' * 100_000, b"\xff\xfe", b"[[]]", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}"):
            read_predictions(path)


@pytest.fixture
def scenes(tmp_path) -> Path:
    """Two scenes, of which one has a linked folder, and a link to a third on another disk."""
    root = tmp_path / "root"
    write_scannet_scenes(root, 2)
    write_scannet_scene(tmp_path / "disk" / "scene0009_00")
    (root / "scans" / "scene0009_00").symlink_to(tmp_path / "disk" / "scene0009_00")
    colour = root / "scans" / "scene0001_00" / "color"
    colour.rename(tmp_path / "disk" / "color")
    colour.symlink_to(tmp_path / "disk" / "color")
    return root


def test_links_that_a_user_has_made_are_followed(scenes):
    data = DepthDataModule(scenes, **SMALL)
    data.setup("fit")
    loaders = data.train_dataloader(), data.val_dataloader()
    clips = {
        clip.split("/")[0] for loader in loaders for batch in loader for clip in batch["clips"]
    }
    assert clips == {"scene0000_00", "scene0001_00", "scene0009_00"}


OUTSIDE = pytest.mark.parametrize(
    "name", ["scene0009_00", "../../disk/scene0009_00", "/etc", "link"]
)


@OUTSIDE
def test_a_list_of_scenes_leads_to_none_outside(scenes, name):
    (scenes / "scans" / "link").symlink_to(scenes.parent)
    for split in ("train", "val"):
        (scenes / f"scannetv2_{split}.txt").write_text(name if split == "val" else "scene0000_00")
    with pytest.raises(BadSample, match=r"not a path inside|not the name of a folder"):
        DepthDataModule(scenes, **SMALL).setup("fit")


@OUTSIDE
def test_a_question_leads_to_no_scene_outside(scenes, name):
    (scenes / "scans" / "link").symlink_to(scenes.parent)
    for split, scene in (("train", "scene0000_00"), ("val", name)):
        record = {"scene_id": scene, "question_id": split, "question": "?", "answers": ["a"]}
        (scenes / f"ScanQA_v1.0_{split}.json").write_text(json.dumps([record]))
    data = DepthDataModule(scenes, **SMALL, objective="tuning", benchmark=ScanQA(scenes))
    with pytest.raises(BadSample, match=r"ScanQA_v1\.0_val\.json|not a path inside"):
        data.setup("fit")
