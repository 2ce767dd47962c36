"""What is computed of the answers to a split, and the files that it is written into."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console

from callbacks.answer_sheet import draw_answers, select_extremes
from callbacks.trainer_access import data, run_folder
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_file
from vlynx_pl.metrics import Answered, Protocol, failures, headline, intervals, table
from vlynx_pl.metrics.dependence import dependence, dependence_table, independent
from vlynx_pl.metrics.figures import Figures
from vlynx_pl.metrics.intervals import Interval
from vlynx_pl.metrics.scores import counts
from vlynx_pl.muting import Way
from vlynx_pl.runs.cards import write_cards
from vlynx_pl.runs.provenance import last_session


@dataclass(frozen=True)
class Evaluation:
    """The answers to a split with their scores.

    Args:
        protocol: of the benchmark.
        split: of the questions.
        answered: each question once, in the order of the data.
        again: way → the same questions in the same order, asked in that way.
    """

    protocol: Protocol
    split: str
    answered: Sequence[Answered]
    again: Mapping[Way, Sequence[Answered]]

    @cached_property
    def figures(self) -> Figures:
        """The protocol's figures, and the numbers of questions."""
        return self.protocol.figures(self.answered) | counts(self.protocol.name, self.answered)

    @cached_property
    def failed(self) -> dict[str, str]:
        """The figures that could not be computed, with the reasons."""
        return failures(self.figures)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The intervals of the figures that have one."""
        return intervals(self.figures)

    @cached_property
    def probe(self) -> dict[str, Any]:
        """What the answers depend on, with a warning for each stream that they do not."""
        if not self.again or headline(self.figures) in self.failed:
            return {}
        ways = {str(way): others for way, others in self.again.items()}
        found = dependence(self.answered, ways, self.protocol.quick or self.protocol.figures)
        streams = dict.fromkeys(way.stream for way in self.again)
        warnings = [independent(found, stream) for stream in streams]
        return found | {"warnings": [warning for warning in warnings if warning]}

    @property
    def logged(self) -> Figures:
        """The figures for the logs, with both ends of the headline's interval."""
        first = headline(self.figures)
        ends = self.intervals[first]._asdict() if first in self.intervals else {}
        return self.figures | {f"{first}/{end}": figure for end, figure in ends.items()}

    def write_answers(self, run: Path, settings: Mapping[str, Any]) -> None:
        """Write the predictions, and the benchmark's submission if it has one."""
        made_with = {"benchmark": self.protocol.benchmark, "settings": settings}
        rows = [asdict(answer) | made_with for answer in self.answered]
        for way, others in self.again.items():
            for row, other in zip(rows, others, strict=True):
                row.setdefault("again", {})[str(way)] = other.prediction
        with atomic_file(run / f"predictions-{self.split}.jsonl") as unfinished:
            unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if self.protocol.submission is not None:
            with atomic_file(run / f"submission-{self.split}.json") as unfinished:
                unfinished.write_text(json.dumps(self.protocol.submission(self.answered), indent=1))

    def draw(self, trainer: Trainer) -> None:
        """Draw the worst and the best answers; a failed figure may be what they are sorted by."""
        path = run_folder(trainer) / f"answers-{self.split}.png"
        try:
            self._draw(trainer, path)
        except UserError:
            if not self.failed:
                raise
            rank_zero_warn(f"{path.name} is not drawn without the figures that failed")

    def _draw(self, trainer: Trainer, path: Path) -> None:
        worst, best = select_extremes(self.answered, self.protocol.each(self.answered), 10)
        shown = worst + best
        # The few that are shown are read again: frames neither stay in memory nor reach this rank.
        clips = sorted({one.answer.clip for one in shown})
        episodes = data(trainer).loaded(self.split, clips)
        first = headline(self.figures)
        failed = sum(answer.failed for answer in self.answered)
        title = (
            f"{self.protocol.benchmark} · {self.split} · {first} {self.figures[first]:.2f} "
            f"{self.intervals.get(first, '')}\n{len(self.answered)} questions, {failed} failed; "
            "each answer is shown with its own score"
        )
        again: dict[str, dict[str, str]] = {one.answer.id: {} for one in shown}
        for way, others in self.again.items():
            for other in others:
                if other.id in again:
                    again[other.id][str(way)] = other.text
        draw_answers(worst, best, episodes, title, path, again)

    def write_scores(self, run: Path) -> None:
        """Write the scores, which mark the run as finished, into cards and a file."""
        scores: dict[str, Any] = {n: f for n, f in self.figures.items() if n not in self.failed}
        scores["intervals"] = self.intervals
        scores |= {"probe": self.probe} if self.probe else {}
        scores |= {"failed": self.failed} if self.failed else {}
        scores["provenance"] = last_session(run)
        write_cards(run, {f"scores-{self.split}": scores})
        with atomic_file(run / f"scores-{self.split}.json") as unfinished:
            unfinished.write_text(json.dumps(scores, indent=1))

    def show(self) -> None:
        """Print the scores, and what the answers depend on."""
        console = Console()
        console.print(table(self.figures, self.intervals))
        if self.probe:
            console.print(dependence_table(self.probe))
            for warning in self.probe["warnings"]:
                rank_zero_warn(warning)
