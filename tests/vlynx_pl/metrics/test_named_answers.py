import pytest

from vlynx_pl.metrics.named_answers import (
    LEVELS,
    contains,
    contains_lower,
    level_of,
    same_level,
    same_words,
)


@pytest.mark.parametrize(
    ("said", "reference", "published", "strict"),
    [
        ("Two.", "two", True, True),
        ("piano", "no", True, False),
        ("acoustic guitar", "acoustic_guitar", False, True),
        ("Acoustic_Guitar", "acoustic_guitar", True, True),
        ("more  than ten", "more than ten", False, True),
        ("three", "two", False, False),
    ],
)
def test_music(said, reference, published, strict):
    assert contains_lower(said, (reference,)) is published
    assert same_words(said, (reference,)) is strict


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("Early Expert", "Early Expert"),
        ("the level is late expert.", "Late Expert"),
        ("2. Early\n Expert: competent", "Early Expert"),
        ("not a novice but an Intermediate Expert", "Intermediate Expert"),
        ("Expert", None),
    ],
)
def test_levels(text, level):
    assert level_of(text) == level


def test_a_level_is_no_part_of_another():
    for level in LEVELS:
        assert level_of(level) == level
        assert [other for other in LEVELS if contains(other, (level,))] == [level]


def test_published_levels_are_case_sensitive():
    assert same_level("novice", ("Novice",)) and not contains("novice", ("Novice",))
