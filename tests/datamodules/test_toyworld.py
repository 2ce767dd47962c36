"""The toy world: same bytes for same arguments, official formats, answers that the pixels give."""

import errno
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datamodules.media.scannet import open_scene
from datamodules.media.scannet_splits import find_scenes, listed_scenes
from datamodules.samples import BadSample
from datamodules.toyworld import files, generate, generate_toyworld, render_scene, sample_scene
from datamodules.toyworld.questions import (
    COMPARISONS,
    ONE_OBJECT,
    THREE_D,
    ToyQuestion,
    kind_of,
    questions,
)
from datamodules.toyworld.render import BACKGROUND, Rendered, intrinsics
from datamodules.toyworld.scene import COLOURS, HALF_WIDTH, SHAPES, Scene

SCENES = 12
worlds = st.builds(sample_scene, st.integers(0, 2**31), st.integers(0, 9999))


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


@pytest.fixture(scope="module")
def rooms() -> list[tuple[Scene, Rendered]]:
    return [(scene, render_scene(scene)) for scene in (sample_scene(5, i) for i in range(60))]


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


# Geometry ---------------------------------------------------------------------------------------


def test_walls_are_where_depth_in_mm_says(rooms: list[tuple[Scene, Rendered]]) -> None:
    rows, columns = np.mgrid[:64, :64]
    pixels = np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1)
    rays = np.linalg.inv(intrinsics(64)) @ pixels
    for scene, rendered in rooms[:10]:
        width, length, height = scene.room
        for t, pose in enumerate(scene.poses):
            metres = rendered.depth[t].reshape(-1) / 1000
            points = pose[:3, :3] @ (rays * metres) + pose[:3, 3:]  # (3, H*W) in the world
            points = points[:, rendered.objects[t].reshape(-1) == BACKGROUND]
            reach = np.abs(points - [[0], [0], [height]]) / [[width], [length], [height]]
            assert np.abs(reach.max(0) - 1).max() < 6e-4  # 0.5 mm along the view axis


def test_objects_are_where_the_scene_says(rooms: list[tuple[Scene, Rendered]]) -> None:
    for scene, rendered in rooms:
        for k, thing in enumerate(scene.objects):
            x, y = np.rint(np.array(thing.place) * 32 / HALF_WIDTH + 31.5).astype(int)
            assert rendered.objects[0, y, x] == k
            metres = rendered.depth[0][rendered.objects[0] == k] / 1000
            assert np.abs(metres - thing.distance).max() <= thing.radius + 1e-3


def test_every_object_is_seen_well_in_every_frame(rooms: list[tuple[Scene, Rendered]]) -> None:
    for scene, rendered in rooms:
        for k in range(len(scene.objects)):
            assert ((rendered.objects == k).sum((1, 2)) >= 20).all()


# What RGB can tell ------------------------------------------------------------------------------


def test_distance_leaves_no_trace_in_colour(rooms: list[tuple[Scene, Rendered]]) -> None:
    order = {"near": 2.2, "middle": 0.6, "far": 1.2}  # every object to another band, in m
    for scene, rendered in rooms[:20]:
        moved = replace(
            scene, objects=tuple(replace(o, distance=order[o.band]) for o in scene.objects)
        )
        other = render_scene(moved)
        assert (other.depth != rendered.depth).any()
        same = (other.colour == rendered.colour).all(-1)
        assert same.mean() > 0.998  # rounding decides a pixel on an edge


def test_the_camera_only_turns() -> None:
    for scene in (sample_scene(0, i) for i in range(50)):
        assert (scene.poses[:, :3, 3] == scene.poses[0, :3, 3]).all()
        turns = scene.poses[:, :3, :3]
        assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3))


def test_size_and_place_say_nothing_of_distance() -> None:
    things = [o for i in range(3000) for o in sample_scene(7, i).objects]
    distance = [o.distance for o in things]
    for trait in (
        [o.angular_radius for o in things],
        [o.place[0] for o in things],
        [o.place[1] for o in things],
        [list(COLOURS).index(o.colour) for o in things],
    ):
        assert abs(np.corrcoef(distance, trait)[0, 1]) < 0.04  # 3.4 standard errors


# Answers ----------------------------------------------------------------------------------------


class Looker:
    """Answers questions from pixels: object numbers, depth and colour, never from placements."""

    def __init__(self, scene: Scene, rendered: Rendered) -> None:
        masks = [rendered.objects == k for k in range(rendered.objects.max() + 1)]
        self.colours = [self._colour(rendered, mask) for mask in masks]
        self.shapes = [o.shape for o in scene.objects]  # the only thing taken on trust
        self.places = [self._places(mask) for mask in masks]  # K of (T, 2)
        self.metres = [float(np.median(rendered.depth[mask])) / 1000 for mask in masks]

    @staticmethod
    def _colour(rendered: Rendered, mask: Any) -> str:
        pixels = rendered.colour[mask].astype(float)
        brightest = pixels[pixels.sum(-1).argmax()]
        lit = {name: np.array(rgb) for name, rgb in COLOURS.items()}
        shades = [(name, s * rgb) for name, rgb in lit.items() for s in np.linspace(0.55, 1, 19)]
        return min(shades, key=lambda shade: float(np.abs(shade[1] - brightest).sum()))[0]

    @staticmethod
    def _places(mask: Any) -> Any:
        return np.array([np.argwhere(frame).mean(0)[::-1] - 31.5 for frame in mask])

    def find(self, name: str) -> int:
        known = self.colours if name in COLOURS else self.shapes
        (found,) = [k for k, known_name in enumerate(known) if known_name == name]
        return found

    def band(self, k: int) -> str:
        return "near" if self.metres[k] < 0.8 else "middle" if self.metres[k] < 1.45 else "far"

    def side(self, values: Any, words: tuple[str, str]) -> str:
        assert (np.sign(values) == np.sign(values[0])).all(), "frames disagree"
        return words[int(values[0] > 0)]

    def answer(self, question: str) -> str:
        words = question.rstrip("?").replace(",", "").split()
        named = [word for word in words if word in COLOURS or word in SHAPES]
        kind = kind_of(question)
        if kind in {*COMPARISONS, "closer", "in front"}:
            return self._compare(kind, named)
        match kind:
            case "count":
                return ("no", "one", "two", "three", "four")[len(self.colours)]
            case "colour":
                return self.colours[self.find(named[0])]
            case "shape":
                return self.shapes[self.find(named[0])]
            case "exists":
                there = list(zip(self.colours, self.shapes, strict=True))
                return "yes" if (named[0], named[1]) in there else "no"
            case "distance":
                return self.band(self.find(named[0]))
        axis, sides = (0, ("left", "right")) if "left" in words else (1, ("top", "bottom"))
        return self.side(self.places[self.find(named[0])][:, axis], sides)

    def _compare(self, kind: str, named: list[str]) -> str:
        first, second = map(self.find, named)
        nearer = self.metres[first] < self.metres[second]
        if kind == "closer":
            return named[0] if nearer else named[1]
        if kind == "in front":
            return "yes" if nearer else "no"
        apart = self.places[first] - self.places[second]
        return self.side(apart[:, COMPARISONS.index(kind)], ("yes", "no"))


def test_pixels_give_every_answer(rooms: list[tuple[Scene, Rendered]]) -> None:
    seen: Counter[str] = Counter()
    for scene, rendered in rooms:
        looker = Looker(scene, rendered)
        for question in questions(scene):
            assert looker.answer(question.text) == question.answer, (scene.name, question)
            seen[question.kind] += 1
    assert min(seen[kind] for kind in (*ONE_OBJECT, *COMPARISONS, *THREE_D)) >= 30


def test_no_kind_is_won_by_guessing() -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for i in range(800):
        for question in questions(sample_scene(11, i)):
            answers[question.kind][question.answer] += 1
    for kind in ("exists", *COMPARISONS, "in front"):
        assert answers[kind]["yes"] == answers[kind]["no"], kind
    for kind in ("colour", "shape", "count", "where", "distance", "closer"):
        counts = answers[kind].values()
        assert max(counts) / sum(counts) < 1.3 / len(counts), kind


@given(worlds)
def test_questions_tell_their_kind_and_are_asked_once(scene: Scene) -> None:
    asked: list[ToyQuestion] = questions(scene)
    assert all(kind_of(question.text) == question.kind for question in asked)
    assert len({question.text for question in asked}) == len(asked)


@given(worlds)
def test_objects_keep_apart_and_inside_the_room(scene: Scene) -> None:
    places = np.array([o.place for o in scene.objects])
    radii = np.array([o.angular_radius for o in scene.objects])
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(len(places))
    assert (gaps > radii[:, None] + radii).all()
    assert len({o.colour for o in scene.objects}) == len(scene.objects)
    for o in scene.objects:
        sideways = np.hypot(o.distance + o.radius, abs(o.place[0]) * o.distance + o.radius)
        assert sideways < min(scene.room[:2])
        assert abs(o.place[1]) * o.distance + o.radius < scene.room[2]


@given(st.integers(0, 2**31), st.integers(0, 9999))
def test_a_scene_depends_on_its_arguments_alone(seed: int, index: int) -> None:
    one, same = sample_scene(seed, index), sample_scene(seed, index)
    assert one.objects == same.objects
    assert (one.poses == same.poses).all()
    assert (one.room, one.wall) == (same.room, same.wall)


def test_a_question_of_another_world_has_no_kind() -> None:
    with pytest.raises(ValueError, match="no question of the toy world"):
        kind_of("What is left of me?")
