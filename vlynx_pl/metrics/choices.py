"""Which option an answer chose, by the rules of each benchmark; '' if none.

The published rules keep their flaws, so that figures are comparable; ``strict_letter`` is our own.
"""

import re
from typing import Final

_PREFIXES: Final = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",  # a comma is missing in the published list
    "Best answer:Best option:",  # and here
)
_OFFICIAL_PREFIXES: Final = (
    *_PREFIXES,
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)
# VQA's punctuation, in its order.
_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'


def strict_letter(text: str) -> str:
    """Return the capital letter that the answer begins with.

    >>> strict_letter("(B) a dog"), strict_letter("Best answer: C")
    ('B', '')
    """
    return _first(r"^\W*([A-Z])\b", text)


def video_mme_letter(text: str, official: bool) -> str:
    """VideoMME's rule: the first of A to D anywhere, after known phrases are deleted.

    >>> video_mme_letter("Answer: C", official=True), video_mme_letter("Answer: C", official=False)
    ('C', 'A')

    Args:
        text: the answer.
        official: use VideoMME's own list of phrases; otherwise that of the lmms-eval version that
            PAVE and V-LynX used, which lacks the last four.
    """
    text = text.strip()
    for prefix in _OFFICIAL_PREFIXES if official else _PREFIXES:
        text = text.replace(prefix, "")
    return _first(r"([ABCD])", text)


def mvbench_official(said: str, references: tuple[str, ...]) -> bool:
    """MVBench's notebook: whether the first word is part of "(a)", or contains it."""
    gold, word = f"({references[0].lower()})", said.lower().split(" ")[0]
    return word.replace(".", "") in gold or gold in word


def mvbench_lmms_letter(text: str) -> str:
    """lmms-eval's rule for MVBench: the first letter A to E that stands alone, in either case.

    >>> mvbench_lmms_letter("it is a dog")
    'A'
    """
    if found := re.fullmatch(r"([A-E])\.\s*.+", text.strip(), re.IGNORECASE):
        return found[1].upper()
    text = " ".join(text.splitlines()).replace("\t", " ").strip()
    plain, thousands = text, re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        joined = thousands or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if joined else " ")
    return _first(r"\b([A-E])\b", re.sub(r"\.(?!\d)", "", plain), re.IGNORECASE)


def mlvu_official_letter(text: str) -> str:
    """MLVU's rule: everything before the first closing bracket.

    >>> mlvu_official_letter("A) red"), mlvu_official_letter("(A) red")
    ('A', '(A')
    """
    return text.partition(")")[0]


def mlvu_released_letter(text: str) -> str:
    """V-LynX's rule for MLVU: the first A to D that stands alone, else the first character.

    >>> mlvu_released_letter("I think (c)")
    'C'
    """
    return _first(r"\b([A-D])\b", text, re.IGNORECASE) or text.strip()[:1].upper()


def _first(pattern: str, text: str, flags: re.RegexFlag = re.NOFLAG) -> str:
    found = re.search(pattern, text, flags)
    return found[1].upper() if found else ""
