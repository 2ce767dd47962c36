"""What the texts of a question must be like to stand in a prompt; known before any token is."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

STRUCTURE: Final = ("<image>", "<video>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
"""What structures the prompts of LLaVA-OneVision, for where no tokenizer is at hand."""


class Question(Protocol):
    """What a question must tell; ``datamodules.samples.Question`` does."""

    @property
    def id(self) -> str:
        """Its name in messages."""

    @property
    def prompt(self) -> str:
        """What the user says."""

    @property
    def answers(self) -> Sequence[str]:
        """References; the first is learnt."""

    @property
    def history(self) -> Sequence[tuple[str, str]]:
        """Earlier turns, (question, answer)."""


def target(question: Question) -> str:
    """What is learnt to be answered; empty where the answers are kept back."""
    return question.answers[0] if question.answers else ""


def unfit(question: Question, structure: Iterable[str], answer: str | None) -> str | None:
    """Why a question cannot stand in a prompt, with its id; None where it can.

    Args:
        question: its prompt and its history are looked at.
        structure: the tokens that structure a prompt, which no text may hold.
        answer: what is to be learnt, as :func:`target` gives it; None where it is only asked.
    """
    for asked, said in (*question.history, (question.prompt, answer)):
        for token in structure:
            if token in asked or token in (said or ""):
                return f"question {question.id!r:.60} holds {token!r}, which structures the prompt"
        if said is not None and not said.strip():
            return f"question {question.id!r:.60} has no answer to {asked!r:.80}"
    return None
