"""Shares of right answers in percent, overall and by label; a question that failed is wrong."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from vlynx_pl.metrics.answered import Answered

Rule: TypeAlias = Callable[[str, tuple[str, ...]], bool]  # is what was said right, by references?
Figures: TypeAlias = dict[str, float]


class NoFigure(float):
    """Not a number: the place of a figure that could not be computed, with the reason."""

    reason: str

    def __new__(cls, reason: str) -> "NoFigure":
        """A NaN with a reason, which ends in what to do about it."""
        figure = super().__new__(cls, "nan")
        figure.reason = reason
        return figure


def is_right(answer: Answered, rule: Rule) -> bool:
    """What the rule says of an answer, if there is one: nothing said is never right."""
    return not answer.failed and rule(answer.text, answer.references)


def accuracies(
    name: str, answered: Sequence[Answered], rule: Rule, by: Iterable[tuple[str, ...]] = ()
) -> Figures:
    """Micro accuracies.

    Args:
        name: of the figure.
        answered: at least one.
        rule: what is right.
        by: labels to break it down by, together where there are several.

    Returns:
        ``name`` over all questions, ``name_answered`` over those that were answered, and for each
        group such as ``("modality", "type")`` a ``name/modality/Audio/Counting``.
    """
    figures = {
        name: percent(answered, rule),
        f"{name}_answered": percent([answer for answer in answered if not answer.failed], rule),
    }
    for labels in by:
        groups = grouped(answered, labels)
        figures |= {f"{name}/{group}": percent(groups[group], rule) for group in sorted(groups)}
    return figures


def macro(name: str, answered: Sequence[Answered], rule: Rule, label: str) -> Figures:
    """The mean of the accuracies of groups, which weigh the same.

    Args:
        name: of the figure, with ``{}`` for the number of groups, such as ``mlvu/macro{}``.
        answered: at least one.
        rule: what is right.
        label: that makes the groups.
    """
    groups = grouped(answered, (label,)).values()
    return {name.format(len(groups)): sum(percent(group, rule) for group in groups) / len(groups)}


def grouped(answered: Sequence[Answered], labels: tuple[str, ...]) -> dict[str, list[Answered]]:
    """``modality/Audio/Counting`` → its questions, of the labels modality and type."""
    groups: dict[str, list[Answered]] = {}
    for answer in answered:
        values = "/".join(answer.label(label) for label in labels)
        groups.setdefault(f"{labels[0]}/{values}".replace(" ", "_"), []).append(answer)
    return groups


def percent(answered: Sequence[Answered], rule: Rule) -> float:
    """100 × the share of right ones; 0 of none."""
    right = sum(is_right(answer, rule) for answer in answered)
    return 100 * right / len(answered) if answered else 0.0
