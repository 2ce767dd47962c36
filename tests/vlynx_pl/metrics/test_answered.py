from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics.answered import Answered, decoded, encoded, merged

TEXT = st.text(st.characters(), max_size=8)
TEXTS = st.lists(TEXT, min_size=1, max_size=3).map(tuple)
ANSWERED = st.builds(
    Answered, TEXT, st.none() | TEXT, TEXTS, TEXTS, st.dictionaries(TEXT, TEXT), TEXT, TEXT
)
ONE = Answered("1", "a dog", ("dog",))


@given(st.lists(ANSWERED), st.lists(ANSWERED))
def test_answers_come_back_from_joined_bytes(first, second):
    assert decoded(encoded(first) + encoded(second)) == first + second


@given(st.lists(ANSWERED, min_size=1, unique_by=lambda a: a.id), st.randoms())
def test_neither_order_nor_repetition_changes_what_is_scored(answered, random):
    again = answered + random.choices(answered, k=2)
    random.shuffle(again)
    assert merged(again) == merged(answered)
    assert len(merged(answered)) == len(answered)


def test_the_first_of_a_repeated_question_counts():
    assert merged([ONE, replace(ONE, prediction="a cat")]) == [ONE]


@pytest.mark.parametrize("other", [{"references": ("cat",)}, {"clip": "elsewhere.mp4"}])
def test_two_questions_of_one_id(other):
    with pytest.raises(UserError, match="two different questions have the id '1'"):
        merged([ONE, replace(ONE, **other)])


def test_questions_without_references_are_an_error():
    with pytest.raises(UserError, match=r"1 of 2 questions have no reference.*'2'.*submission"):
        merged([ONE, Answered("2", "x", ())])


def test_nothing_to_score():
    with pytest.raises(UserError, match="no answers to score"):
        merged([])


@pytest.mark.parametrize(
    ("said", "failed"), [(None, True), ("", True), (" \n", True), ("a", False)]
)
def test_nothing_said_is_a_failure(said, failed):
    assert replace(ONE, prediction=said).failed is failed


def test_a_missing_label_is_named():
    with pytest.raises(UserError, match=r"'1' has no label 'task'.*\(it has type\)"):
        replace(ONE, labels={"type": "x"}).label("task")
