import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlynx_pl.metrics.scene_answers import clean_answer, exact_match, refined_match

TEXT = st.text("abt oTV019.,'?- ç\n", max_size=30)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Brown.  ", "brown"),
        ("dark  brown", "dark brown"),
        ("one.   two", "one two"),
        ("brown .", "brown "),  # spaces go before marks do
        ("let it be letf", "left it be left"),
        ("tehre on the rigth, not rght", "there on right, not right"),
        ("behine the tv", "behind TV"),
        ("a chai", "chair"),
        ("the wasing machine waslked", "washing machine walked"),
        ("2 oclock", "two o'clock"),
        ("3 o'   clock", "three o'clock"),
        ("none", "zero"),
        ("0 10 13 20", "zero ten thirteen twenty"),
        ("21, 22 and 23", "21, 22 and twenty-three"),
        ("no1", "no"),
        ("room12", "room12"),
        ("an apple in the box", "apple in box"),
        ("a 3", "three"),
        ("the", "the"),
        ("backwards", "backward"),
        ("façade", "faade"),
        ("to the left/right side", "to leftright side"),
        ("x:y-z, it's", "x:y-z, it's"),
    ],
)
def test_the_cleaning_with_its_quirks(text, cleaned):
    assert clean_answer(text) == cleaned


def test_exact_match_is_of_a_whole_reference():
    assert exact_match("Brown.", ["dark brown", "brown"])
    assert not exact_match("brown", ["dark brown"])
    assert not exact_match("brow", ["brown"])


@pytest.mark.parametrize(
    ("said", "references", "right"),
    [
        ("brown", ["dark brown"], True),
        ("It is dark brown.", ["brown"], True),
        ("dark brown", ["darkbrown"], True),
        ("a round table", ["roundtable", "x"], True),
        ("red", ["brown"], False),
        ("brown", ["?"], False),  # empty after cleaning
    ],
)
def test_refined_match_is_containment_without_white_space(said, references, right):
    assert refined_match(said, references) is right


@pytest.mark.parametrize("nothing", ["", "?!"])
def test_an_empty_answer_passes_only_where_parity_is_asked_for(nothing):
    assert not refined_match(nothing, ["brown"])
    assert refined_match(nothing, ["brown"], empty_is_contained=True)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=3))
def test_refined_is_never_stricter_than_exact(said, references):
    assert refined_match(said, references) >= exact_match(said, references)
