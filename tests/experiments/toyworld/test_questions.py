"""Questions of all worlds are asked once, are complete, and cannot be answered by guessing."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.toyworld import sample_scene
from experiments.toyworld.blink_questions import blink_questions
from experiments.toyworld.blinks import sample_clip
from experiments.toyworld.hearing import heard_questions
from experiments.toyworld.questions import COMPARISONS, questions
from experiments.toyworld.sound import add_sound

ASKED: dict[str, Callable[[int, int], list[Any]]] = {
    "scenes": lambda seed, index: questions(sample_scene(seed, index)),
    "sound": lambda seed, index: heard_questions(add_sound(sample_scene(seed, index), seed)),
    "blinks": lambda seed, index: blink_questions(sample_clip(seed, index)),
}
AS_MANY_YES_AS_NO = {
    "scenes": ("exists", *COMPARISONS, "in front"),
    "sound": ("sounds", "before", "louder"),
    "blinks": ("blinks", "before"),
}
# Kind → limit for its most frequent answer, relative to equal shares.
PREVALENCE = {
    "scenes": dict.fromkeys(("colour", "shape", "count", "where", "distance", "closer"), 1.3),
    "sound": {
        "which": 1.28, "silent": 1.36, "colour": 1.6, "where": 1.16,
        "notes": 1.6, "times": 1.26, "shapes": 2.0,
    },
    "blinks": dict.fromkeys(("count", "first", "last", "sooner", "side"), 1.35),
}  # fmt: skip


@pytest.mark.parametrize("world", ASKED)
def test_no_answer_prevails(world):
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(800):
        for question in ASKED[world](11, index):
            answers[question.kind][question.answer] += 1
    for kind in AS_MANY_YES_AS_NO[world]:
        assert answers[kind]["yes"] == answers[kind]["no"] > 50, kind
    for kind, most in PREVALENCE[world].items():
        counts = answers[kind].values()
        assert max(counts) / sum(counts) < most / len(counts), kind


@pytest.mark.parametrize("world", ASKED)
@given(seed=st.integers(0, 2**31), index=st.integers(0, 9999))
def test_questions_are_asked_once_and_complete(world: str, seed: int, index: int):
    asked = ASKED[world](seed, index)
    assert asked
    assert len({question.text for question in asked}) == len(asked)
    assert not any("<" in question.text for question in asked)
