"""Accuracies in percent, overall and by label; failed questions count as wrong."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from vlynx_pl.metrics.answered import Answered

Rule: TypeAlias = Callable[[str, tuple[str, ...]], bool]  # (answer, references) → right?
Figures: TypeAlias = dict[str, float]


class NoFigure(float):
    """NaN in place of a figure that could not be computed, with the reason and a remedy."""

    reason: str

    def __new__(cls, reason: str) -> "NoFigure":
        figure = super().__new__(cls, "nan")
        figure.reason = reason
        return figure


def is_right(answer: Answered, rule: Rule) -> bool:
    """Apply the rule to an answer; a failed one is never right."""
    return not answer.failed and rule(answer.text, answer.references)


def accuracies(
    name: str, answered: Sequence[Answered], rule: Rule, by: Iterable[tuple[str, ...]] = ()
) -> Figures:
    """Compute micro accuracies.

    Args:
        name: of the figure.
        answered: at least one.
        rule: which answers are right.
        by: groups of labels to break the figure down by.

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
    """Compute the unweighted mean of the accuracies of groups.

    Args:
        name: of the figure, with ``{}`` for the number of groups, such as ``mlvu/macro{}``.
        answered: at least one.
        rule: which answers are right.
        label: the label that defines the groups.
    """
    groups = grouped(answered, (label,)).values()
    return {name.format(len(groups)): sum(percent(group, rule) for group in groups) / len(groups)}


def grouped(answered: Sequence[Answered], labels: tuple[str, ...]) -> dict[str, list[Answered]]:
    """Group by labels; for modality and type, a key is ``modality/Audio/Counting``."""
    groups: dict[str, list[Answered]] = {}
    for answer in answered:
        values = "/".join(answer.label(label) for label in labels)
        groups.setdefault(f"{labels[0]}/{values}".replace(" ", "_"), []).append(answer)
    return groups


def percent(answered: Sequence[Answered], rule: Rule) -> float:
    """Return the percentage of right answers; 0 if there are none."""
    right = sum(is_right(answer, rule) for answer in answered)
    return 100 * right / len(answered) if answered else 0.0
