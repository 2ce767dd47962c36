"""The toy world on disk: same bytes for same arguments, in the official formats."""

import errno
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.media.scannet import open_scene
from datamodules.media.scannet_splits import find_scenes, listed_scenes
from datamodules.samples import BadSample
from datamodules.toyworld import files, generate, generate_toyworld, render_scene, sample_scene
from datamodules.toyworld.questions import (
    COMPARISONS,
    ONE_OBJECT,
    THREE_D,
    kind_of,
)
from datamodules.toyworld.scene import Scene

SCENES = 12


class Inline:
    """A pool without processes: open3d takes seconds to import in every new one."""

    def __init__(self, workers: int, mp_context: object) -> None:
        pass

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def map(
        self, make: Callable[[int], Any], items: Iterable[int], chunksize: int
    ) -> Iterator[Any]:
        return map(make, items)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world made in this process."""
    out = tmp_path_factory.mktemp("toy") / "world"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "ProcessPoolExecutor", Inline)
        assert generate_toyworld(out, SCENES, seed=3)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Files ------------------------------------------------------------------------------------------


def test_two_processes_write_the_same_bytes_as_one(world: Path, tmp_path: Path) -> None:
    generate_toyworld(tmp_path / "again", SCENES, seed=3, workers=2)
    assert contents(tmp_path / "again") == contents(world)


def test_another_seed_is_another_world() -> None:
    assert sample_scene(0, 0).objects != sample_scene(1, 0).objects
    assert sample_scene(0, 0).objects != sample_scene(0, 1).objects


def test_a_complete_world_is_left_alone(world: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*")}
    assert not generate_toyworld(world, SCENES, seed=3)
    assert {p: p.stat().st_mtime_ns for p in world.rglob("*")} == before


def test_another_world_is_not_overwritten(world: Path) -> None:
    with pytest.raises(BadSample, match=r"another toy world.*another --out"):
        generate_toyworld(world, SCENES, seed=4)


def test_a_strange_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadSample, match="no toy world"):
        generate_toyworld(tmp_path, 3)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_too_few_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scenes=2"):
        generate_toyworld(tmp_path / "w", 2)


def test_after_a_full_disk_the_world_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "ProcessPoolExecutor", Inline)
    out, write = tmp_path / "w", files.write_scene

    def full(scene: Scene, folder: Path, size: int) -> None:
        if scene.index == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(scene, folder, size)

    monkeypatch.setattr(generate, "write_scene", full)
    with pytest.raises(BadSample, match=r"w: could not be written .No space left"):
        generate_toyworld(out, 4)
    assert not (out / "toyworld.json").exists()
    monkeypatch.setattr(generate, "write_scene", write)
    assert generate_toyworld(out, 4)
    assert (out / "toyworld.json").exists()
    assert len(find_scenes(out)) == 4


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
    for split, scenes in json.loads((world / "scene_split.json").read_text()).items():
        scanqa, sqa3d, _ = records(world, split)
        for name, part in (("scanqa", scanqa), ("sqa3d", sqa3d["questions"])):
            kinds[name] |= {kind_of(record["question"]) for record in part}
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
