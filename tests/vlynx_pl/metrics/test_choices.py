import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlynx_pl.metrics.choices import (
    mlvu_official_letter,
    mlvu_released_letter,
    mvbench_lmms_letter,
    mvbench_official,
    strict_letter,
    video_mme_letter,
)


@pytest.mark.parametrize(
    ("text", "official", "lmms", "strict"),
    [
        ("C", "C", "C", "C"),
        ("C. Apples.", "C", "C", "C"),
        (" **B** ", "B", "B", "B"),
        ("The best answer is D.", "D", "D", ""),
        ("The correct answer is: D", "D", "D", ""),
        ("Answer: C", "C", "A", ""),
        ("Best answer: C", "B", "B", ""),
        ("Best answer:Best option:C", "C", "C", ""),  # the missing comma
        ("The best option isThe correct option is C", "C", "C", ""),
        ("A dog", "A", "A", "A"),
        ("Dogs bark", "D", "D", ""),
        ("c", "", "", ""),
        ("", "", "", ""),
        ("it is not said in this video what the man would do after", "", "", ""),
        ("it is not said in this video what the man with B would do", "B", "B", ""),
    ],
)
def test_video_mme(text, official, lmms, strict):
    assert video_mme_letter(text, official=True) == official
    assert video_mme_letter(text, official=False) == lmms
    assert strict_letter(text) == strict


@pytest.mark.parametrize(
    ("said", "letter", "right"),
    [
        ("(a) red", "A", True),
        ("A", "A", True),
        ("A. red", "A", True),
        ("(", "B", True),  # as published: a part of "(b)"
        (")", "B", True),
        ("answer(b): red", "B", True),
        ("B: red", "B", False),
        ("it is (b)", "B", False),  # only the first word counts
        ("(a)", "B", False),
        ("red", "B", False),
    ],
)
def test_mvbench_by_its_notebook(said, letter, right):
    assert mvbench_official(said, (letter,)) is right


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("b.red", "B"),
        ("(B) red", "B"),
        ("Option: (c)", "C"),
        ("it is a red B", "A"),  # the article
        ("The answer is E", "E"),
        ("answer:B", "B"),
        ("red", ""),
        ("A.B", "A"),
        ("it's A.B", ""),  # without its dot one word
        ("no,\n\tC!", "C"),
        ("1,000 (d)", "D"),
        ("x(A)y", "A"),
        ("x(A)y or 1,0", ""),  # a comma in a number, and marks are no borders any more
        ("F", ""),
    ],
)
def test_mvbench_by_lmms_eval(text, letter):
    assert mvbench_lmms_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "official", "released"),
    [
        ("A", "A", "A"),
        ("(A) red", "(A", "A"),
        ("a", "a", "A"),
        ("A.", "A.", "A"),
        ("I would say (c) or b", "I would say (c", "C"),
        ("a dog", "a dog", "A"),
        ("blue", "blue", "B"),  # nothing stands alone, so its first character
        ("", "", ""),
    ],
)
def test_mlvu(text, official, released):
    assert mlvu_official_letter(text) == official
    assert mlvu_released_letter(text) == released


@given(st.text(max_size=60))
def test_every_rule_gives_a_letter_or_nothing_of_any_text(text):
    for letter in (
        strict_letter(text),
        video_mme_letter(text, official=True),
        video_mme_letter(text, official=False),
        mvbench_lmms_letter(text),
    ):
        assert letter == "" or letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
