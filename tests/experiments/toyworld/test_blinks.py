"""The toy world of blinks: fast frames give every answer, slow frames and guessing give none."""

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from datamodules.benchmarks.llava_video import LLaVAVideo
from datamodules.benchmarks.mlvu import MLVU
from datamodules.benchmarks.mvbench import MVBench
from datamodules.benchmarks.video_mme import VideoMME
from datamodules.media.files import media_file
from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from datamodules.signals import tiling
from experiments.toyworld import render_scene, sample_scene
from experiments.toyworld.blink_questions import KINDS, blink_questions, first_within, options
from experiments.toyworld.blinks import FPS, FRAMES, PARTS, BlinkClip, render_clip, sample_clip
from experiments.toyworld.fast import BlinkingRooms
from experiments.toyworld.scene import COLOURS

CLIPS = 20
PARTED: dict[Split, slice] = {"train": slice(3), "val": slice(3, 8), "test": slice(8, 12)}
MLVU_TASKS = ("plotQA", "needle", "count", "order")
MVBENCH_TASKS = ("action_count", "action_sequence", "character_order", "object_existence")

clips = st.builds(sample_clip, st.integers(0, 2**31), st.integers(0, 9999))


@pytest.fixture(scope="module")
def films() -> list[tuple[BlinkClip, NDArray[np.uint8]]]:
    return [(clip, render_clip(clip)) for clip in (sample_clip(5, i) for i in range(CLIPS))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BlinkClip]]:
    """Clips on disk with their annotations."""
    out, maker = tmp_path_factory.mktemp("highfps"), BlinkingRooms()
    facts = [maker.make(out, 5, i, 64) for i in range(12)]
    for split, part in PARTED.items():
        maker.annotate(out, split, facts[part])
    return out, facts


def white(frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (T, H, W) of what blinks; walls and objects are far from white."""
    found: NDArray[np.bool_] = (frames > 230).all(-1)
    return found


def runs(frames: NDArray[np.uint8]) -> list[range]:
    """Frames of each blink, from the pixels alone."""
    lit = np.flatnonzero(white(frames).any((1, 2)))
    starts = [0, *(np.flatnonzero(np.diff(lit) > 1) + 1), len(lit)]
    return [range(lit[a], lit[b - 1] + 1) for a, b in pairwise(starts) if b > a]


def roundings(first: int, last: int, count: int) -> list[set[int]]:
    """Frames that an even sampling from first to last may take: down, to the nearest, one early."""
    moments = np.linspace(first, last, count)
    early = np.maximum(np.floor(moments) - 1, first)
    return [
        {int(frame) for frame in taken} for taken in (np.floor(moments), np.rint(moments), early)
    ]


# Samplings --------------------------------------------------------------------------------------


def test_slow_samplings_see_no_blink_and_fast_ones_all(
    films: list[tuple[BlinkClip, NDArray[np.uint8]]],
) -> None:
    blinks = 0
    for clip, frames in films:
        found = runs(frames)
        assert len(found) == len(clip.blinks)
        blinks += len(found)
        for count in (2, 4, 8):
            for taken in roundings(0, FRAMES - 1, count):
                assert not any(taken & set(run) for run in found)
        for taken in roundings(0, FRAMES - 1, 16):
            assert all(len(taken & set(run)) == 1 for run in found)
        for moment in range(7, FRAMES, 7):  # each of 16 may be rounded down or not
            assert all((moment in run) == (moment - 1 in run) for run in found)
        for count in (17, 20, 24, 32, 80):
            for taken in roundings(0, FRAMES - 1, count)[:2]:
                assert all(taken & set(run) for run in found)
    assert blinks > CLIPS


def test_samplings_between_see_some_blinks_only(
    films: list[tuple[BlinkClip, NDArray[np.uint8]]],
) -> None:
    for count in (5, 7, 10, 12):
        taken = roundings(0, FRAMES - 1, count)[0]
        seen = [bool(taken & set(run)) for _, frames in films for run in runs(frames)]
        assert 0.1 < np.mean(seen) < 0.9, count


def test_within_a_part_four_frames_see_no_blink_and_sixteen_all(
    films: list[tuple[BlinkClip, NDArray[np.uint8]]],
) -> None:
    inside = 0
    for _, frames in films:
        for start, end in PARTS:
            first, past = round(start * FPS), round(end * FPS)
            found = [run for run in runs(frames) if run.start < past and run.stop > first]
            inside += len(found)
            for last in (past - 1, past):  # whether or not a reader takes the frame at the end
                slow, fast = roundings(first, last, 4)[:2], roundings(first, last, 16)[:2]
                assert not any(taken & set(run) for taken in slow for run in found)
                assert all(taken & set(run) for taken in fast for run in found)
            assert all(first < run.start and run.stop <= past for run in found)
    assert inside > CLIPS / 2


def test_the_file_shows_blinks_in_tiles_of_four_and_in_no_slow_frame(
    world: tuple[Path, list[BlinkClip]],
) -> None:
    out, facts = world
    seen = []
    for clip in facts:
        path = out / "videos" / f"{clip.name}.mp4"
        recording = read_video(path, [Request(Uniform(n)) for n in (4, 8, 16)])
        four, eight, fast = (stream.pixels for stream in recording.streams)
        for slow in (four, eight):
            assert not white(slow.permute(0, 2, 3, 1).numpy()).any()
        tiles = tiling(fast, (128, 128)).unflatten(2, (2, 64)).unflatten(4, (2, 64))
        tiles = tiles.permute(0, 2, 4, 3, 5, 1).flatten(0, 2).numpy()  # (16, 64, 64, 3)
        lit = white(tiles).sum((1, 2)) > 10
        assert lit.sum() == len(clip.blinks)
        seen.append(int(lit.sum()))
    assert set(seen) == {0, 1, 2, 3, 4}


def test_slow_frames_are_those_of_the_3d_world(
    films: list[tuple[BlinkClip, NDArray[np.uint8]]],
) -> None:
    for i, (_, frames) in enumerate(films[:8]):
        room = render_scene(sample_scene(5, i)).colour
        assert (frames[:: (FRAMES - 1) // 3] == room).mean() > 0.999


@given(clips)
def test_the_camera_turns_smoothly_and_keeps_objects_in_the_picture(clip: BlinkClip) -> None:
    turns = clip.scene.poses[:, :3, :3]
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3))
    steps = np.linalg.norm(np.diff(turns, axis=0), axis=(1, 2))
    assert steps.max() < 0.03  # 1.2 degrees
    assert np.abs(clip.scene.places()).max() < 0.6


# Questions --------------------------------------------------------------------------------------


class Watcher:
    """Answers questions from the pixels of all frames."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self.blinks = [self._blink(frames, run) for run in runs(frames)]  # (colour, column)
        self.colours = [colour for colour, _ in self.blinks]

    @staticmethod
    def _blink(frames: NDArray[np.uint8], run: range) -> tuple[str, float]:
        mask = white(frames)[run.start]
        pixels = frames[run.start - 1][mask].astype(float)
        brightest = np.median(pixels[pixels.sum(-1) >= np.quantile(pixels.sum(-1), 0.7)], 0)
        lit = {name: np.array(rgb) for name, rgb in COLOURS.items()}
        shades = [(name, s * rgb) for name, rgb in lit.items() for s in np.linspace(0.55, 1, 19)]
        colour = min(shades, key=lambda shade: float(np.abs(shade[1] - brightest).sum()))[0]
        return colour, float(np.argwhere(mask)[:, 1].mean() - 31.5)

    def answer(self, kind: str, text: str) -> str:
        named = [word for word in text.rstrip("?").split() if word in COLOURS]
        match kind:
            case "blinks":
                return "yes" if named[0] in self.colours else "no"
            case "count":
                return ("no", "one", "two", "three", "four")[len(self.colours)]
            case "first" | "last":
                return self.colours[0 if kind == "first" else -1]
            case "sooner":
                return min(named, key=self.colours.index)
            case "before":
                earlier, later = map(self.colours.index, named)
                return "yes" if earlier < later else "no"
            case "side":
                return "left" if self.blinks[0][1] < 0 else "right"
            case "order":
                return ", ".join(self.colours)
        raise AssertionError(kind)


def test_pixels_give_every_answer(films: list[tuple[BlinkClip, NDArray[np.uint8]]]) -> None:
    seen: Counter[str] = Counter()
    for clip, frames in films:
        watcher = Watcher(frames)
        for question in blink_questions(clip):
            assert watcher.answer(question.kind, question.text) == question.answer, question
            seen[question.kind] += 1
    assert set(seen) == set(KINDS)


def test_a_part_is_asked_for_its_own_blinks() -> None:
    asked = 0
    for clip in (sample_clip(9, i) for i in range(100)):
        for start, end in PARTS:
            inside = [b.thing for b in clip.blinks if start * FPS < b.start < end * FPS]
            questions = first_within(clip, (start, end))
            asked += len(questions)
            assert bool(questions) == (bool(inside) and len(clip.scene.objects) > 1)
            for question in questions:
                assert question.answer == clip.scene.objects[inside[0]].colour
    assert asked > 50


def test_no_kind_is_won_by_guessing_nor_by_seeing_the_room() -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    rooms = [sample_clip(11, i) for i in range(600)]
    guessed: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for clip in rooms:
        for question in blink_questions(clip):
            answers[question.kind][question.answer] += 1
            if question.kind in ("first", "last"):  # the first object is as good as any
                objects = clip.scene.objects
                guessed[question.kind].append(
                    (question.answer == objects[0].colour, 1 / len(objects))
                )
    for kind in ("blinks", "before"):
        assert answers[kind]["yes"] == answers[kind]["no"] > 50
    for kind in ("count", "first", "last", "sooner", "side"):
        counts = answers[kind].values()
        assert max(counts) / sum(counts) < 1.35 / len(counts), kind
    for pairs in guessed.values():
        hits, chance = np.array(pairs).mean(0)
        assert abs(hits - chance) < 0.08  # 3 standard errors
    known = np.corrcoef(
        [(len(clip.scene.objects), len(clip.blinks)) for clip in rooms], rowvar=False
    )
    assert abs(known[0, 1]) < 0.13


@given(clips)
def test_options_hold_the_answer_once_and_no_kind_repeats_itself(clip: BlinkClip) -> None:
    asked = blink_questions(clip)
    assert len({question.text for question in asked}) == len(asked)
    room = {thing.colour for thing in clip.scene.objects}
    for question in asked:
        shown = options(clip, question)
        assert shown == options(clip, question)
        assert shown.count(question.answer) == 1 and len(set(shown)) == len(shown) <= 4
        if question.kind in ("first", "last"):
            assert room <= set(shown) and len(shown) == 4


def test_no_letter_is_the_answer_more_often() -> None:
    letters: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for clip in (sample_clip(2, i) for i in range(500)):
        for question in blink_questions(clip):
            shown = options(clip, question)
            letters[question.kind, len(shown)][shown.index(question.answer)] += 1
    for (kind, count), found in letters.items():
        if sum(found.values()) > 100:
            assert max(found.values()) / sum(found.values()) < 1.35 / count, kind


# Files ------------------------------------------------------------------------------------------


def test_same_arguments_make_the_same_bytes(
    world: tuple[Path, list[BlinkClip]], tmp_path: Path
) -> None:
    out, facts = world
    again = BlinkingRooms().make(tmp_path, 5, 3, 64)
    assert again.blinks == facts[3].blinks
    name = f"videos/{again.name}.mp4"
    assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    BlinkingRooms().make(tmp_path, 6, 3, 64)
    assert (tmp_path / name).read_bytes() != (out / name).read_bytes()


def test_training_conversations_have_the_official_fields(
    world: tuple[Path, list[BlinkClip]],
) -> None:
    out, facts = world
    named = {clip.name: clip for clip in facts[PARTED["train"]]}
    for form in ("oe", "mc"):
        path = out / "llava_video" / f"0_30_s_toyworld_{form}_v0_1_qa_processed.json"
        records = json.loads(path.read_text())
        assert {record["id"] for record in records} == set(named)
        for record in records:
            assert list(record) == ["id", "conversations", "data_source", "video"]
            assert record["data_source"] == "0_30_s_toyworld_v0_1"
            answers = {q.text: q.answer for q in blink_questions(named[record["id"]])}
            turns = record["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            assert [turn["value"].startswith("<image>\n") for turn in turns[::2]] == [
                number == 0 for number in range(len(turns) // 2)
            ]
            for human, gpt in zip(turns[::2], turns[1::2], strict=True):
                text, *choices = human["value"].removeprefix("<image>\n").split("\n")
                if form == "oe":
                    assert not choices and gpt["value"] == answers[text]
                else:
                    assert choices.pop().startswith("Please respond with only the letter")
                    assert f"{gpt['value']} {answers[text]}" in choices


def read(path: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(path.read_text())
    return records


def test_test_files_have_the_official_fields(world: tuple[Path, list[BlinkClip]]) -> None:
    out, facts = world
    videos = read(out / "videomme" / "output_test_template.json")
    assert [video["video_id"] for video in videos] == [c.name for c in facts[PARTED["test"]]]
    for video in videos:
        assert list(video) == ["video_id", "duration", "domain", "sub_category", "questions"]
        assert video["duration"] == "short"
        for question in video["questions"]:
            assert list(question) == [
                "question_id", "task_type", "question", "options", "answer", "response",
            ]  # fmt: skip
            assert [option[:3] for option in question["options"]] == ["A. ", "B. ", "C. ", "D. "]
    for name, wanted in (("mvbench", "val"), ("mlvu", "test")):
        clips = {f"{clip.name}.mp4" for clip in facts[PARTED[wanted]]}  # type: ignore[index]
        for path in (out / name / "json").iterdir():
            fields = {"video", "question", "candidates", "answer"}
            fields |= {"duration", "question_type"} if name == "mlvu" else set()
            fields |= {"start", "end"} if path.stem == "action_sequence" else set()
            for record in read(path):
                assert set(record) == fields and record["video"] in clips
                assert record["answer"] in record["candidates"]
    count = read(out / "mlvu" / "json" / "4_count.json")[0]
    assert (count["duration"], count["question_type"]) == (7.07, "count")
    bounds = {(r["start"], r["end"]) for r in read(out / "mvbench/json/action_sequence.json")}
    assert bounds == set(PARTS)


def test_the_readers_of_all_four_find_questions_and_videos(
    world: tuple[Path, list[BlinkClip]],
) -> None:
    out, facts = world
    training = LLaVAVideo(out / "llava_video", per_video=None, patterns=["*_qa_processed.json"])
    read_by = [
        (training, out, PARTED["train"]),
        (
            MVBench(out / "mvbench" / "json", MVBENCH_TASKS),
            out / "mvbench" / "video",
            PARTED["val"],
        ),
        (VideoMME(out / "videomme" / "output_test_template.json"), out, PARTED["test"]),
        (MLVU(out / "mlvu" / "json", MLVU_TASKS), out / "mlvu" / "video", PARTED["test"]),
    ]
    for benchmark, root, part in read_by:
        (split,) = benchmark.splits()
        episodes = benchmark.episodes(split)
        stems = {media_file(root, episode.media["video"]).stem for episode in episodes}
        assert stems == {clip.name for clip in facts[part]}


def test_the_picture_shows_clips_from_disk(world: tuple[Path, list[BlinkClip]]) -> None:
    out, facts = world
    BlinkingRooms().draw(facts, out, out / "contact_sheet.png", 64)
    assert Image.open(out / "contact_sheet.png").width > 1000
