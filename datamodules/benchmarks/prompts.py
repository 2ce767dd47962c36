"""The prompts of all benchmarks: the user's text after the video.

The wording is part of a benchmark's protocol. AVSD, MUSIC-AVQA (with its templates filled), ScanQA,
LLaVA-Video-178K and the two generation tasks of MLVU use their questions unchanged.
"""

from collections.abc import Sequence
from typing import Final

LETTERS: Final = "ABCDE"

# PAVE and V-LynX say "subtitles" without giving any, as lmms-eval did for VideoMME.
_SELECT_WITH_SUBTITLES: Final = (
    "Select the best answer to the following multiple-choice question based on the video and the "
    "subtitles. Respond with only the letter (A, B, C, or D) of the correct option."
)
_SELECT: Final = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
_DIRECTLY: Final = "Answer with the option's letter from the given choices directly."

# PAVE's wording for Ego-Exo4D, which V-LynX uses too.
PROFICIENCIES: Final = {
    "Novice": "Beginner-level performance with noticeable gaps in basic skills, understanding, or "
    "execution.",
    "Early Expert": "Competent performance showing solid foundational skills, but with room for "
    "refinement.",
    "Intermediate Expert": "Advanced performance demonstrating strong technical abilities and "
    "strategic understanding, but not yet at mastery.",
    "Late Expert": "Near-masterful or masterful performance, showcasing exceptional skill, "
    "precision, and expertise.",
}


def avqa(question: str, options: Sequence[str]) -> str:
    """PAVE's and V-LynX's prompt for AVQA.

    AVUT, for which neither published a prompt, uses it as well: it asks the same kind of question
    about the same modalities.
    """
    listed = [f"{letter}.{option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([_SELECT_WITH_SUBTITLES, question, *listed, _DIRECTLY])


def sqa3d(situation: str, question: str) -> str:
    """PAVE's, LLaVA-3D's and V-LynX's prompt for SQA3D."""
    return f"{situation} {question}"


def video_mme(question: str, options: Sequence[str]) -> str:
    """The prompt for VideoMME in the version of lmms-eval that PAVE and V-LynX used.

    Args:
        question: unchanged.
        options: each with its letter: ``A. Apples.``
    """
    return "\n".join([_SELECT_WITH_SUBTITLES, question, *options, "", _DIRECTLY])


def mvbench(question: str, options: Sequence[str]) -> str:
    """lmms-eval's prompt for MVBench, without a space after ``Question:``."""
    listed = _in_brackets(options)
    return "\n".join([f"Question:{question}", "Option:", *listed, "Only give the best option.\n"])


def mlvu(question: str, options: Sequence[str]) -> str:
    """V-LynX's prompt for the choice tasks of MLVU."""
    return "\n".join([_SELECT, question, *_in_brackets(options), "Answer:"])


def ego_exo4d() -> str:
    """PAVE's prompt for demonstrator proficiency."""
    levels = (f"{i}. {name}: {words}" for i, (name, words) in enumerate(PROFICIENCIES.items(), 1))
    return (
        "In this video, a human is performing an activity. Your goal is to evaluate the human's "
        "skill level based on their technique, consistency, and overall execution of the activity. "
        "You will classify the performance into one of the following levels: "
        f"{' '.join(levels)} Example Output: Early Expert"
    )


def _in_brackets(options: Sequence[str]) -> list[str]:
    return [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
