"""Questions about a clip, and which texts can be put into a prompt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

STRUCTURE: Final = ("<image>", "<video>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
"""Special tokens in LLaVA-OneVision's prompts, for use without a tokenizer."""


@dataclass(frozen=True)
class Question:
    """Something to ask about a clip, with the accepted answers.

    Args:
        id: as in the annotation file, where it has one; unique within a benchmark's split.
        prompt: what the user says, in the words of the benchmark's protocol, options included.
        answers: references; the first is the training target. For a choice question, the letter.
            Empty if the benchmark keeps its answers back.
        history: earlier turns of a dialogue, (question, answer); training learns their answers too.
        options: the texts to choose from, without letters.
        labels: the groups that scores are broken down by, such as ``{"type": "Counting"}``.
        objects: ids of the objects that it is about, as in the instance labels of its scene.
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    history: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    objects: tuple[int, ...] = ()

    @property
    def target(self) -> str:
        """The answer to learn; empty if the benchmark keeps its answers back."""
        return self.answers[0] if self.answers else ""

    def unfit(self, special: Iterable[str], learnt: bool) -> str | None:
        """Return why the question cannot be put into a prompt, or None.

        Args:
            special: the tokenizer's special tokens, which no text may contain.
            learnt: whether the answer is to be learnt, or the question only asked.
        """
        for asked, said in (*self.history, (self.prompt, self.target if learnt else None)):
            for token in special:
                if token in asked or token in (said or ""):
                    return (
                        f"question {self.id!r:.60} contains {token!r}, which structures the prompt"
                    )
            if said is not None and not said.strip():
                return f"question {self.id!r:.60} has no answer to {asked!r:.80}"
        return None
