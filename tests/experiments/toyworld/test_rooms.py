"""The 3d toy world on disk: scenes as ScanNet has them, questions in the official formats."""

import errno
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.media.scannet import open_scene
from datamodules.media.scannet_splits import find_scenes, listed_scenes
from experiments.toyworld import files, generate_toyworld, render_scene, sample_scene
from experiments.toyworld.questions import COMPARISONS, ONE_OBJECT, THREE_D, questions

SCENES = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world made in this process."""
    out = tmp_path_factory.mktemp("toy") / "world"
    assert generate_toyworld(out, scenes=SCENES, seed=3, workers=1)
    return out


# Files ------------------------------------------------------------------------------------------


def test_no_half_scene_has_a_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(depth: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "png", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_scene(sample_scene(0, 0), tmp_path / "scene0000_00")
    assert not (tmp_path / "scene0000_00").exists()


def test_scenes_read_like_scannet(world: Path) -> None:
    for number, folder in enumerate(find_scenes(world)):
        rendered = render_scene(sample_scene(3, number))
        scene = open_scene(folder)
        assert len(scene.frames) == 4
        assert not scene.dropped
        for i, frame in enumerate(scene.frames):
            assert np.array_equal(scene.read_depth(frame).numpy(), rendered.depth[i])
            colour = scene.read_colour(frame).numpy().transpose(1, 2, 0)
            assert np.abs(colour.astype(int) - rendered.colour[i]).mean() < 3  # JPEG
        assert Image.open(folder / "depth" / "0.png").mode == "I;16"
        names = {path.name for path in (folder / "intrinsic").iterdir()}
        streams = ("color", "depth")
        assert names == {f"{what}trinsic_{s}.txt" for what in ("in", "ex") for s in streams}


def test_splits_share_no_scene(world: Path) -> None:
    splits = {name: [p.name for p in paths] for name, paths in listed_scenes(world).items()}
    assert json.loads((world / "scene_split.json").read_text()) == splits
    every = [name for names in splits.values() for name in names]
    assert sorted(every) == [f"scene{i:04d}_00" for i in range(SCENES)]
    assert all(splits.values())


# Annotations ------------------------------------------------------------------------------------


def records(world: Path, split: str) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """ScanQA's list, SQA3D's questions and SQA3D's annotations of a split."""
    scanqa = world / f"ScanQA_v1.0_{split.replace('test', 'test_w_obj')}.json"
    asked = world / f"v1_balanced_questions_{split}_scannetv2.json"
    answered = world / f"v1_balanced_sqa_annotations_{split}_scannetv2.json"
    read = [json.loads(path.read_text()) for path in (scanqa, asked, answered)]
    return read[0], read[1], read[2]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_fields_are_the_official_ones(world: Path, split: str) -> None:
    scanqa, asked, answered = records(world, split)
    for record in scanqa:
        assert record.keys() == {
            "answers", "object_ids", "object_names", "question", "question_id", "scene_id",
        }  # fmt: skip
        assert len(record["object_ids"]) == len(record["object_names"])
        assert record["question_id"].startswith(f"{split}-{record['scene_id'][:9]}-")
    head = {"info", "license", "data_type", "data_subtype"}
    assert asked.keys() == head | {"task_type", "questions"}
    assert answered.keys() == head | {"annotations"}
    assert (asked["data_type"], asked["data_subtype"]) == ("scannet", "v2")
    for question in asked["questions"]:
        assert question.keys() == {
            "scene_id", "situation", "alternative_situation", "question", "question_id",
        }  # fmt: skip
    for answer in answered["annotations"]:
        assert answer.keys() == {
            "scene_id", "question_type", "answer_type", "question_id", "answers", "rotation",
            "position",
        }  # fmt: skip
        assert answer["answers"][0].keys() == {"answer", "answer_confidence", "answer_id"}
        assert answer["rotation"].keys() == {"_x", "_y", "_z", "_w"}
        assert sum(turn**2 for turn in answer["rotation"].values()) == pytest.approx(1)
        assert answer["position"].keys() == {"x", "y", "z"}
    pairs = [[(r["question_id"], r["scene_id"]) for r in part] for part in (
        asked["questions"], answered["annotations"],
    )]  # fmt: skip
    assert pairs[0] == pairs[1]


def test_both_benchmarks_ask_every_kind_and_repeat_no_question(world: Path) -> None:
    ids: list[Any] = []
    asked_of: dict[str, list[str]] = defaultdict(list)
    kinds: dict[str, set[str]] = {"scanqa": set(), "sqa3d": set()}
    kind_of = {q.text: q.kind for i in range(SCENES) for q in questions(sample_scene(3, i))}
    for split, scenes in json.loads((world / "scene_split.json").read_text()).items():
        scanqa, sqa3d, _ = records(world, split)
        for name, part in (("scanqa", scanqa), ("sqa3d", sqa3d["questions"])):
            kinds[name] |= {kind_of[record["question"]] for record in part}
            ids += [record["question_id"] for record in part]
            for record in part:
                assert record["scene_id"] in scenes
                asked_of[record["scene_id"]].append(record["question"])
    assert kinds["scanqa"] == kinds["sqa3d"] == {*ONE_OBJECT, *COMPARISONS, *THREE_D}
    assert len(set(ids)) == len(ids)
    assert all(len(set(asked)) == len(asked) for asked in asked_of.values())


def test_object_names_are_those_asked_for(world: Path) -> None:
    for record in records(world, "train")[0]:
        objects = sample_scene(3, int(record["scene_id"][5:9])).objects
        named = [f"{objects[k].colour} {objects[k].shape}" for k in record["object_ids"]]
        assert record["object_names"] == named
