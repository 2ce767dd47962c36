"""Accuracies in percent, overall and by label; failed questions count as wrong."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.figures import Figures, Mean, Value

Rule: TypeAlias = Callable[[str, tuple[str, ...]], bool]  # (answer, references) → right?


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
    figures: Figures = {
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
    each = [percent(group, rule) for group in grouped(answered, (label,)).values()]
    groups = (values for mean in each for values in mean.groups)
    return {name.format(len(each)): Mean(sum(each) / len(each), *groups)}


def grouped(answered: Sequence[Answered], labels: tuple[str, ...]) -> dict[str, list[Answered]]:
    """Group by labels; for modality and type, a key is ``modality/Audio/Counting``."""
    groups: dict[str, list[Answered]] = {}
    for answer in answered:
        values = "/".join(answer.label(label) for label in labels)
        groups.setdefault(f"{labels[0]}/{values}".replace(" ", "_"), []).append(answer)
    return groups


def percent(answered: Sequence[Answered], rule: Rule) -> Mean:
    """Return the percentage of right answers; 0 if there are none."""
    return percent_of(answered, [is_right(answer, rule) for answer in answered])


def percent_of(answered: Sequence[Answered], right: Sequence[bool]) -> Mean:
    """Return the percentage of answers that are right, given the verdict on each."""
    pairs = zip(answered, right, strict=True)
    values = [Value(answer.id, answer.clip, 100.0 * verdict) for answer, verdict in pairs]
    return Mean(100 * sum(right) / len(answered) if answered else 0.0, values)
