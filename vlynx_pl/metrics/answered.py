"""Answered questions: plain values that travel between ranks as bytes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from vlynx_pl.io.errors import UserError
from vlynx_pl.questions import Question


@dataclass(frozen=True)
class Answered:
    """A question with the model's answer; one row of a predictions file.

    Args:
        id: unique within a benchmark's split.
        prediction: the model's answer; None if the question could not be asked, because its media
            are missing or the attempt crashed.
        references: accepted answers; the first is the target. For a choice question, the letter.
        options: the texts to choose from, without letters.
        labels: the groups that scores are broken down by.
        clip: the recording that the question is about.
        question: its prompt.
        times: stream → timestamps, in s, of the frames that the model saw.
    """

    id: str
    prediction: str | None
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    clip: str = ""
    question: str = ""
    times: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        question: Question,
        prediction: str | None,
        clip: str,
        times: Mapping[str, Sequence[float]] | None = None,
    ) -> Self:
        """Combine a benchmark's question with the model's answer."""
        return cls(
            question.id,
            prediction,
            question.answers,
            question.options,
            question.labels,
            clip,
            question.prompt,
            times or {},
        )

    @property
    def failed(self) -> bool:
        """Whether there is no prediction, or a blank one."""
        return self.prediction is None or not self.prediction.strip()

    @property
    def text(self) -> str:
        """The prediction; empty if there is none."""
        return self.prediction or ""

    def label(self, name: str) -> str:
        """Return a label; raise UserError if the question does not have it."""
        if name not in self.labels:
            there = ", ".join(self.labels) or "none"
            raise UserError(
                f"the question {self.id!r:.60} has no label {name!r} to score by (it has {there}); "
                "read it from the benchmark's official annotation"
            )
        return self.labels[name]


def encoded(answered: Iterable[Answered]) -> bytes:
    """Encode each answer as one line of ASCII, so that the bytes of ranks can be concatenated."""
    return b"".join(json.dumps(asdict(answer)).encode("ascii") + b"\n" for answer in answered)


def decoded(lines: bytes) -> list[Answered]:
    """Decode what :func:`encoded` returned."""
    rows = [json.loads(line) for line in lines.splitlines()]
    tuples = ("references", "options")
    return [Answered(**row | {name: tuple(row[name]) for name in tuples}) for row in rows]


def merged(answered: Sequence[Answered]) -> list[Answered]:
    """Return each question once, in the order of ids, whatever the order of the answers.

    Of repeated questions, the first answer is kept.

    Raises:
        UserError: there are no answers, two different questions share an id, or a question has no
            reference.
    """
    if not answered:
        raise UserError("there are no answers to score; the split is empty, or none reached update")
    first: dict[str, Answered] = {}
    for answer in answered:
        other = first.setdefault(answer.id, answer)
        if (other.references, other.clip) != (answer.references, answer.clip):
            raise UserError(
                f"two different questions have the id {answer.id!r:.60}; ids must be unique "
                "within a split, and one set of scores must see one split only"
            )
    if hidden := [answer.id for answer in first.values() if not answer.references]:
        raise UserError(
            f"{len(hidden)} of {len(first)} questions have no reference, such as "
            f"{hidden[0]!r:.60}; this split keeps its answers back, so write its submission format"
        )
    return [first[identifier] for identifier in sorted(first)]
