"""Answers that are one name of a small vocabulary: MUSIC-AVQA's words, Ego-Exo4D's levels."""

import re
from typing import Final

LEVELS: Final = ("Novice", "Early Expert", "Intermediate Expert", "Late Expert")


def contains_lower(said: str, references: tuple[str, ...]) -> bool:
    """PAVE's and V-LynX's rule for MUSIC-AVQA, which finds "no" in "piano"."""
    return references[0].lower() in said.lower()


def contains(said: str, references: tuple[str, ...]) -> bool:
    """PAVE's and V-LynX's rule for Ego-Exo4D's levels and AVQA's letters; case-sensitive."""
    return references[0] in said


def same_words(said: str, references: tuple[str, ...]) -> bool:
    """Whether texts are equal, ignoring case, underscores, white space and outer punctuation."""
    return _words(said) == _words(references[0])


def same_level(said: str, references: tuple[str, ...]) -> bool:
    """Whether the longest level name in the answer is the right one."""
    return level_of(said) == references[0]


def level_of(text: str) -> str | None:
    """Find the longest name of an Ego-Exo4D level in a text, ignoring case."""
    found = [level for level in LEVELS if level.lower() in " ".join(text.lower().split())]
    return max(found, key=len, default=None)


def _words(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", " ".join(text.lower().replace("_", " ").split()))
