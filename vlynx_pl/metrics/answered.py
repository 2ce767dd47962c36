"""A question with what a model said to it: plain values, which travel between ranks as bytes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from vlynx_pl.io.errors import UserError


@dataclass(frozen=True)
class Answered:
    """What a score knows of a question.

    Args:
        id: unique within a benchmark's split.
        prediction: what the model said; None where it could not be asked, because its media are
            missing or the attempt crashed.
        references: what is accepted; the first is the target. Of a choice question, the letter.
        options: the texts to choose from, without letters.
        labels: what scores are broken down by.
        clip: the recording that it is about.
        question: what the user said.
        times: timestamps, in s, of each stream's frames that it was answered from.
    """

    id: str
    prediction: str | None
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    clip: str = ""
    question: str = ""
    times: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether nothing was said: no prediction, or one without a visible character."""
        return self.prediction is None or not self.prediction.strip()

    @property
    def text(self) -> str:
        """What was said, empty where it failed."""
        return self.prediction or ""

    def label(self, name: str) -> str:
        """A label; raises UserError where the question has none of that name."""
        if name not in self.labels:
            there = ", ".join(self.labels) or "none"
            raise UserError(
                f"the question {self.id!r:.60} has no label {name!r} to score by (it has {there}); "
                "read it from the benchmark's official annotation"
            )
        return self.labels[name]


def encoded(answered: Iterable[Answered]) -> bytes:
    """A line of ASCII for each, so that what several ranks wrote can be joined as it is."""
    return b"".join(json.dumps(asdict(answer)).encode("ascii") + b"\n" for answer in answered)


def decoded(lines: bytes) -> list[Answered]:
    """What ``encoded`` wrote."""
    rows = [json.loads(line) for line in lines.splitlines()]
    tuples = ("references", "options")
    return [Answered(**row | {name: tuple(row[name]) for name in tuples}) for row in rows]


def merged(answered: Sequence[Answered]) -> list[Answered]:
    """Each question once, in the order of ids, whichever rank answered it and in whatever order.

    Of a question that was asked twice, what was said the first time is taken.

    Raises:
        UserError: nothing was answered, two different questions share an id, or a reference is
            missing.
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
