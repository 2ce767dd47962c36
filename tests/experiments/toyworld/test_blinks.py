"""The toy world of blinks: fast frames give every answer, slow frames and guessing give none."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from experiments.toyworld import render_scene, sample_scene
from experiments.toyworld.blink_questions import KINDS, blink_questions, first_within, options
from experiments.toyworld.blinks import FPS, FRAMES, PARTS, BlinkClip, render_clip, sample_clip
from experiments.toyworld.questions import COUNTS
from experiments.toyworld.scene import COLOURS
from tests.experiments.toyworld.pixels import CENTRE, nearest_colour, white

CLIPS = 20

clips = st.builds(sample_clip, st.integers(0, 2**31), st.integers(0, 9999))


@pytest.fixture(scope="module")
def films() -> list[tuple[BlinkClip, NDArray[np.uint8]]]:
    return [(clip, render_clip(clip)) for clip in (sample_clip(5, i) for i in range(CLIPS))]


def runs(frames: NDArray[np.uint8]) -> list[range]:
    """Frames of each blink, from the pixels alone."""
    lit = np.flatnonzero(white(frames).any((1, 2)))
    starts = [0, *(np.flatnonzero(np.diff(lit) > 1) + 1), len(lit)]
    return [range(lit[a], lit[b - 1] + 1) for a, b in pairwise(starts) if b > a]


def roundings(first: int, last: int, count: int) -> list[set[int]]:
    """Frames that even sampling from first to last may take: down, to the nearest, one early."""
    times = np.linspace(first, last, count)
    early = np.maximum(np.floor(times) - 1, first)
    return [{int(frame) for frame in taken} for taken in (np.floor(times), np.rint(times), early)]


# Samplings --------------------------------------------------------------------------------------


def test_slow_samplings_see_no_blink_and_fast_ones_all(films):
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
        for frame in range(7, FRAMES, 7):  # each of 16 may be rounded down or not
            assert all((frame in run) == (frame - 1 in run) for run in found)
        for count in (17, 20, 24, 32, 80):
            for taken in roundings(0, FRAMES - 1, count)[:2]:
                assert all(taken & set(run) for run in found)
    assert blinks > CLIPS


def test_within_a_part_four_frames_see_no_blink_and_sixteen_all(films):
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


def test_slow_frames_are_those_of_the_3d_world(films):
    for i, (_, frames) in enumerate(films[:8]):
        room = render_scene(sample_scene(5, i)).colour
        assert (frames[:: (FRAMES - 1) // 3] == room).mean() > 0.999


@given(clips)
def test_the_camera_rotates_smoothly_and_keeps_objects_in_the_frame(clip: BlinkClip):
    turns = clip.scene.poses[:, :3, :3]
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3))
    steps = np.linalg.norm(np.diff(turns, axis=0), axis=(1, 2))
    assert steps.max() < 0.03  # 1.2 degrees
    assert np.abs(clip.scene.places()).max() < 0.6


# Questions --------------------------------------------------------------------------------------


class Observer:
    """Answers questions from the pixels of all frames."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self.blinks = [self._blink(frames, run) for run in runs(frames)]  # (colour, column)
        self.colours = [colour for colour, _ in self.blinks]

    @staticmethod
    def _blink(frames: NDArray[np.uint8], run: range) -> tuple[str, float]:
        mask = white(frames)[run.start]
        pixels = frames[run.start - 1][mask].astype(float)
        brightest = np.median(pixels[pixels.sum(-1) >= np.quantile(pixels.sum(-1), 0.7)], 0)
        return nearest_colour(brightest), float(np.argwhere(mask)[:, 1].mean() - CENTRE)

    def answer(self, kind: str, text: str) -> str:
        named = [word for word in text.rstrip("?").split() if word in COLOURS]
        match kind:
            case "blinks":
                return "yes" if named[0] in self.colours else "no"
            case "count":
                return COUNTS[len(self.colours)]
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


def test_pixels_give_every_answer(films):
    seen: Counter[str] = Counter()
    for clip, frames in films:
        observer = Observer(frames)
        for question in blink_questions(clip):
            assert observer.answer(question.kind, question.text) == question.answer, question
            seen[question.kind] += 1
    assert set(seen) == set(KINDS)


def test_a_part_is_asked_for_its_own_blinks():
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


def test_seeing_the_room_does_not_help():
    films = [sample_clip(11, i) for i in range(600)]
    for kind in ("first", "last"):  # guessed to be the first object
        hits, chance = np.mean(
            [
                (question.answer == clip.scene.objects[0].colour, 1 / len(clip.scene.objects))
                for clip in films
                for question in blink_questions(clip)
                if question.kind == kind
            ],
            0,
        )
        assert abs(hits - chance) < 0.08  # 3 standard errors
    counts = [(len(clip.scene.objects), len(clip.blinks)) for clip in films]
    assert abs(np.corrcoef(counts, rowvar=False)[0, 1]) < 0.13


@given(clips)
def test_options_contain_the_answer_once(clip: BlinkClip):
    room = {thing.colour for thing in clip.scene.objects}
    for question in blink_questions(clip):
        shown = options(clip, question)
        assert shown == options(clip, question)
        assert shown.count(question.answer) == 1 and len(set(shown)) == len(shown) <= 4
        if question.kind in ("first", "last"):
            assert room <= set(shown) and len(shown) == 4


def test_no_letter_is_the_answer_more_often():
    letters: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for clip in (sample_clip(2, i) for i in range(500)):
        for question in blink_questions(clip):
            shown = options(clip, question)
            letters[question.kind, len(shown)][shown.index(question.answer)] += 1
    for (kind, count), found in letters.items():
        if sum(found.values()) > 100:
            assert max(found.values()) / sum(found.values()) < 1.35 / count, kind
