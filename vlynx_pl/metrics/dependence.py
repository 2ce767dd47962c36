"""What answers depend on: the headline again, with a stream left out or of another clip."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.figures import Figures, Mean
from vlynx_pl.metrics.intervals import differences

_SHOWN: Final = 12  # kinds of questions in the table
_ALL: Final = "all"


def dependence(
    answered: Sequence[Answered],
    again: Mapping[str, Sequence[Answered]],
    figures: Callable[[Sequence[Answered]], Figures],
) -> dict[str, Any]:
    """Compare answers with those to the same questions, asked in other ways.

    Args:
        answered: each question once.
        again: way → the same questions in the same order, answered in that way.
        figures: the protocol's; the headline is compared.

    Returns:
        ``figure``, the name of the headline, and for each way: ``score``, ``difference`` (as is
        minus this way) with its ``interval`` if it has one, ``changed``, the percentage of answers
        that differ, and the same for each of ``kinds``. JSON can hold all of it.
    """
    name, as_is = next(iter(figures(answered).items()))
    kinds = kinds_of(answered)
    before = _by_kind(as_is, kinds)
    found: dict[str, Any] = {"figure": name, "score": float(as_is)}
    for way, others in again.items():
        after = _by_kind(next(iter(figures(others).values())), kinds)
        between = differences(before, after)
        changed = {
            one.id for one, other in zip(answered, others, strict=True) if one.text != other.text
        }
        rows: dict[str, dict[str, Any]] = {}
        for kind, score in after.items():
            asked = kinds[kind]
            rows[kind] = {
                "questions": len(asked),
                "as is": float(before[kind]),
                "score": float(score),
                "difference": before[kind] - score,
                "changed": 100 * len(changed & asked) / len(asked),
            }
            if kind in between:
                rows[kind]["interval"] = between[kind].interval
        found[way] = rows.pop(_ALL) | {"kinds": rows}
    return found


def kinds_of(answered: Sequence[Answered]) -> dict[str, set[str]]:
    """Group the ids of questions by their labels, or else by how the question begins."""
    kinds: dict[str, set[str]] = {_ALL: {answer.id for answer in answered}}
    for answer in answered:
        labels = [f"{label} {value}" for label, value in answer.labels.items()]
        for kind in labels or [" ".join(answer.question.lower().split()[:2])]:
            kinds.setdefault(kind, set()).add(answer.id)
    return kinds


def _by_kind(figure: float, kinds: Mapping[str, set[str]]) -> Figures:
    """Break a figure down, if it is a mean of questions; ``all`` is the figure itself."""
    of_kinds: Figures = {_ALL: figure}
    if isinstance(figure, Mean) and len(figure.groups) == 1:
        [values] = figure.groups
        for kind, asked in kinds.items():
            part = [value for value in values if value.question in asked]
            if kind != _ALL and part:
                of_kinds[kind] = Mean(sum(value.value for value in part) / len(part), part)
    return of_kinds


def independent(found: Mapping[str, Any], stream: str) -> str | None:
    """Say that the answers do not depend on a stream, if another clip's does as well.

    Args:
        found: see :func:`dependence`.
        stream: such as ``3d``.

    Returns:
        None if the interval of the difference excludes zero, or if there is none.
    """
    row = found.get(f"another clip's {stream}", {})
    if "interval" not in row or not row["interval"][0] <= 0 <= row["interval"][1]:
        return None
    return (
        f"the answers do not depend on {stream}: with another clip's {stream}, {found['figure']} "
        f"is {row['score']:.2f} instead of {found['score']:.2f} (difference "
        f"{row['difference']:+.2f}, 95 % interval {row['interval']}), and {row['changed']:.0f} % "
        "of the answers change"
    )


def dependence_table(found: Mapping[str, Any]) -> Table:
    """Format the result of :func:`dependence`: one column per way, then one row per kind."""
    ways = {way: row for way, row in found.items() if isinstance(row, Mapping)}
    rows = Table(
        escape(str(found["figure"])),
        "as is",
        *map(escape, ways),
        caption="difference: as is minus this way, paired by clips",
    )
    for column in rows.columns[1:]:
        column.justify = "right"

    def add(title: str, as_is: str, cells: Sequence[str]) -> None:
        rows.add_row(escape(title), as_is, *map(escape, cells))

    each = list(ways.values())
    add("score", f"{found['score']:.2f}", [f"{row['score']:.2f}" for row in each])
    add("difference", "", [f"{row['difference']:+.2f}" for row in each])
    add("95 % interval", "", [str(row.get("interval", "none")) for row in each])
    add("answers that change", "", [f"{row['changed']:.0f} %" for row in each])
    rows.add_section()
    kinds = each[0]["kinds"]
    for kind in sorted(kinds, key=lambda kind: -kinds[kind]["questions"])[:_SHOWN]:
        scores = [f"{row['kinds'][kind]['score']:.2f}" for row in each]
        add(f"{kind} ({kinds[kind]['questions']})", f"{kinds[kind]['as is']:.2f}", scores)
    return rows
