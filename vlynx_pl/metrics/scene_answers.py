"""Exact match of ScanQA and SQA3D after LEO's cleaning, as LLaVA-3D, PAVE and V-LynX score them.

The cleaning is part of the protocol with all its quirks: ``let`` becomes ``left``, ``tv`` becomes
``TV``, and 21 and 22 stay figures.
"""

import re
from collections.abc import Sequence
from typing import Final

_WORDS: Final = {
    "letf": "left",
    "let": "left",
    "tehre": "there",
    "rigth": "right",
    "rght": "right",
    "behine": "behind",
    "tv": "TV",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "oclock": "o'clock",
    "o'[ ]+clock": "o'clock",
    "0": "zero",
    "none": "zero",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
    "10": "ten",
    "11": "eleven",
    "12": "twelve",
    "13": "thirteen",
    "14": "fourteen",
    "15": "fifteen",
    "16": "sixteen",
    "17": "seventeen",
    "18": "eighteen",
    "19": "nineteen",
    "20": "twenty",
    "23": "twenty-three",
}
_STEPS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        ("[ ]+$", ""),
        ("^[ ]+", ""),
        (" {2,}", " "),
        (r"\.[ ]{2,}", ". "),
        (r"[^a-zA-Z0-9,'\s\-:]+", ""),
        *((rf"\b{word}\b", correction) for word, correction in _WORDS.items()),
        (r"\b([a-zA-Z]+)[0-9]\b", r"\1"),
        (r"\ba\b ([a-zA-Z]+)", r"\1"),
        (r"\ban\b ([a-zA-Z]+)", r"\1"),
        (r"\bthe\b ([a-zA-Z]+)", r"\1"),
        (r"\bbackwards\b", "backward"),
    ]
)


def clean_answer(text: str) -> str:
    """LEO's cleaning of predictions and references.

    >>> clean_answer(" The TV is on 2  chairs. ")
    'TV is on two chairs'
    """
    text = text.lower()
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    return text


def exact_match(said: str, references: Sequence[str]) -> bool:
    """EM@1: whether the cleaned answer is one of the cleaned references."""
    return clean_answer(said) in [clean_answer(reference) for reference in references]


def refined_match(said: str, references: Sequence[str], empty_is_contained: bool = False) -> bool:
    """Refined EM: exact match, or one contains the other, ignoring white space.

    Args:
        said: the model's answer.
        references: as annotated.
        empty_is_contained: whether an answer that is empty after cleaning is right, as in PAVE's
            evaluator; in V-LynX's it is wrong.
    """
    if exact_match(said, references):
        return True
    rest = "".join(clean_answer(said).split())
    if not rest:
        return empty_is_contained
    wanted = ["".join(clean_answer(reference).split()) for reference in references]
    return any(reference and (rest in reference or reference in rest) for reference in wanted)
