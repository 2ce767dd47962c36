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
def test_predictions_that_are_none(tmp_path, pickled, name):
    path = tmp_path / name
    for content in (pickled, DEEP, b'{"id":' * 100_000, b"\xff\xfe", b"[[]]", b"3", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}"):
            read_predictions(path)


# Links: a user's own are followed, those that an annotation names lead nowhere else


@pytest.fixture
def scenes(tmp_path) -> Path:
    """Two scenes, and a link to a third on another disk."""
    root = tmp_path / "root"
    write_scannet_scenes(root, 2)
    write_scannet_scene(tmp_path / "disk" / "scene0009_00")
    (root / "scans" / "scene0009_00").symlink_to(tmp_path / "disk" / "scene0009_00")
    return root


def test_a_scene_that_a_user_has_linked_is_found(scenes):
    data = DepthDataModule(scenes, **SMALL)
    data.setup("fit")
    assert {clip.split("/")[0] for b in data.val_dataloader() for clip in b["clips"]} == {
        "scene0009_00"
    }


def test_so_are_files_that_a_user_has_linked_within_a_scene(scenes, tmp_path):
    colour = scenes / "scans" / "scene0001_00" / "color"
    colour.rename(tmp_path / "disk" / "color")
    colour.symlink_to(tmp_path / "disk" / "color")
    data = DepthDataModule(scenes, **SMALL)
    data.setup("fit")
    clips = [clip for batch in data.train_dataloader() for clip in batch["clips"]]
    assert any(clip.startswith("scene0001_00") for clip in clips)


@pytest.mark.parametrize("name", ["scene0009_00", "../../disk/scene0009_00", "/etc", "..", "link"])
def test_an_annotation_leads_to_no_scene_outside(scenes, name):
    (scenes / "scans" / "link").symlink_to(scenes.parent)
    for split in ("train", "val"):
        (scenes / f"scannetv2_{split}.txt").write_text(name if split == "val" else "scene0000_00")
    with pytest.raises(BadSample, match=r"not a path inside|not the name of a folder"):
        DepthDataModule(scenes, **SMALL).setup("fit")


@pytest.mark.parametrize("name", ["scene0009_00", "../../disk/scene0009_00", "/etc", "..", "link"])
def test_a_question_leads_to_no_scene_outside(scenes, name):
    (scenes / "scans" / "link").symlink_to(scenes.parent)
    for split, scene in (("train", "scene0000_00"), ("val", name)):
        record = {"scene_id": scene, "question_id": split, "question": "?", "answers": ["a"]}
        (scenes / f"ScanQA_v1.0_{split}.json").write_text(json.dumps([record]))
    data = DepthDataModule(scenes, **SMALL, objective="tuning", benchmark=ScanQA(scenes))
    with pytest.raises(BadSample, match=r"ScanQA_v1\.0_val\.json|not a path inside"):
        data.setup("fit")
