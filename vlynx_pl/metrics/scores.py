"""The scores of a benchmark as a torchmetrics metric, and how they are printed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from vlynx_pl.metrics.answered import Answered, decoded, encoded, merged
from vlynx_pl.metrics.figures import Figures, NoFigure
from vlynx_pl.metrics.intervals import Difference, Interval
from vlynx_pl.metrics.protocols import Protocol


class Scores(Metric):
    """Gathers the answers of all ranks, and scores them as one set, each question once.

    Use ``update``; calling the metric would score every batch as a set of its own.

    Args:
        protocol: how the benchmark is scored.

    Example:
        >>> from datamodules.benchmarks import AVUT
        >>> from vlynx_pl.metrics import Answered, Scores
        >>> scores = Scores(AVUT.protocol)
        >>> labels = {"task": "Audio OCR Matching"}
        >>> scores.update([Answered("7", "B", ("B",), labels=labels)])
        >>> scores.update([Answered("8", None, ("C",), labels=labels)])
        >>> scores.compute()["avut/strict"], scores.compute()["avut/n_failed"]
        (50.0, 1.0)
    """

    full_state_update = False
    records: list[Tensor]  # answers as uint8 bytes

    def __init__(self, protocol: Protocol, **options: Any) -> None:
        super().__init__(**options)
        self.protocol = protocol
        self.add_state("records", default=[], dist_reduce_fx="cat")

    @property
    @override
    def dtype(self) -> torch.dtype:
        """Dtype of the empty tensor that a rank without answers contributes."""
        return torch.uint8

    @override
    def update(self, answered: Sequence[Answered]) -> None:
        """Add answers, at least one."""
        line = torch.frombuffer(bytearray(encoded(answered)), dtype=torch.uint8)
        self.records.append(line.to(self.device))

    @override
    def compute(self) -> Figures:
        """Return the figures, the paper's first, with ``n_total``, ``n_answered`` and ``n_failed``.

        A figure whose program fails is a ``NoFigure``; see :func:`failures`.

        Raises:
            UserError: there are no answers, or one cannot be scored.
        """
        return self.figures(self.answered())

    def figures(self, answered: Sequence[Answered]) -> Figures:
        """Return the figures of answers, one per question, like :meth:`compute`."""
        return self.protocol.figures(answered) | counts(self.protocol.name, answered)

    def answered(self) -> list[Answered]:
        """Return each question once, in the order of ids; in ``sync_context()``, of all ranks."""
        records = dim_zero_cat(self.records) if len(self.records) else torch.empty(0)
        return merged(decoded(records.byte().cpu().numpy().tobytes()))


def counts(name: str, answered: Sequence[Answered]) -> Figures:
    """Count all, answered and failed questions."""
    failed = sum(answer.failed for answer in answered)
    numbers = {"total": len(answered), "answered": len(answered) - failed, "failed": failed}
    return {f"{name}/n_{what}": float(number) for what, number in numbers.items()}


def headline(figures: Mapping[str, float]) -> str:
    """Return the name of the figure that the paper reports, the first one."""
    return next(iter(figures))


def table(
    figures: Mapping[str, float], intervals: Mapping[str, Interval], chosen: str | None = None
) -> Table:
    """Format figures as a table, the headline and the counts first.

    Args:
        figures: of one benchmark, from ``Scores.compute``.
        intervals: of the figures that have one.
        chosen: name of the headline; None is the paper's.
    """
    first = chosen or headline(figures)
    numbers = [name for name in figures if "/n_" in name]
    remark = "intervals are bootstrapped by clips" if intervals else "intervals need two clips"
    caption = f"in percent, CIDEr × 100; failed is wrong\n{remark}"
    rows = Table("score", "figure", "95 % interval", caption=caption)
    rows.columns[1].justify = rows.columns[2].justify = "right"

    def add(name: str, style: str = "") -> None:
        texts = escape(name), _shown(figures[name]), escape(str(intervals.get(name, "")))
        rows.add_row(*texts, style=style)

    add(first, "bold")
    for name in numbers:
        rows.add_row(escape(name), f"{figures[name]:.0f}")
    rows.add_section()
    for name in figures:
        if name != first and name not in numbers:
            add(name)
    return rows


def comparison(compared: Mapping[str, Difference], figures: Mapping[str, float]) -> Table:
    """Format the differences of figures to those of other answers to the same questions.

    Args:
        compared: at least one, from :func:`vlynx_pl.metrics.intervals.differences`.
        figures: those that the others were subtracted from.
    """
    caption = "paired by clips; bold where the interval excludes zero"
    rows = Table("score", "this", "other", "difference", "95 % interval", caption=caption)
    for column in rows.columns[1:]:
        column.justify = "right"
    for name, (figure, interval) in compared.items():
        numbers = f"{figures[name]:.2f}", f"{figures[name] - figure:.2f}", f"{figure:+.2f}"
        style = "bold" if compared[name].clear else ""
        rows.add_row(escape(name), *numbers, escape(str(interval)), style=style)
    return rows


def failures(figures: Mapping[str, float]) -> dict[str, str]:
    """Return the figures that could not be computed, with their reasons."""
    return {name: one.reason for name, one in figures.items() if isinstance(one, NoFigure)}


def describe_failures(failed: Mapping[str, str]) -> str:
    """Describe what could not be computed, each reason once."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    parts = (f"{', '.join(of)} could not be computed: {why}" for why, of in names.items())
    return ". ".join(parts)


def _shown(figure: float) -> str:
    return "failed" if isinstance(figure, NoFigure) else f"{figure:.2f}"
