"""Asks a benchmark's questions, scores the answers, and keeps what was said."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import track
from typing_extensions import override

from callbacks.access import data, is_trial, leaves_files, run_folder, stage
from callbacks.answer_sheet import draw_answers, pick
from vlynx_pl.errors import UserError
from vlynx_pl.files import atomic_file
from vlynx_pl.metrics import Answered, headline, scores_for, submission, table
from vlynx_pl.tuning import InstructionTuning


class AnswerScores(Callback):
    """Scores the val questions after fitting, and the test questions in ``vlynx test``.

    Writes into the run folder ``predictions-<split>.jsonl``, ``submission-<split>.json`` in the
    benchmark's own format where it has one, and ``scores-<split>.json``, which also marks the run
    as finished; then the ten worst and the ten best answers with their frames are drawn into
    ``answers-<split>.png``. Questions whose media were left out count as failed.

    Args:
        benchmark: name of the reader, such as ``ScanQA``.
    """

    def __init__(self, benchmark: str) -> None:
        self.benchmark = benchmark
        self.scores = scores_for(benchmark)
        # Question id → moments of each stream, in the order of asking.
        self._times: dict[str, Mapping[str, Any]] = {}

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_trial(trainer):
            return
        module, loader = stage(pl_module, InstructionTuning), data(trainer).val_dataloader()
        for batch in track(loader, "Answering", len(loader), transient=True):
            moved = trainer.datamodule.transfer_batch_to_device(  # type: ignore[attr-defined]
                batch, module.device, 0
            )
            self._hear(module, moved, [module.answers(episode) for episode in moved])
        self._finish(trainer, pl_module, "val")

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._hear(stage(pl_module, InstructionTuning), batch, outputs["answers"])

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, data(trainer).test_split)

    def _hear(self, module: LightningModule, episodes: Any, answers: list[list[str]]) -> None:
        self.scores.to(module.device)
        for episode, said in zip(episodes, answers, strict=True):
            heard = [
                _answered(episode["name"], question, text)
                for question, text in zip(episode["questions"], said, strict=True)
            ]
            self.scores.update(heard)
            self._times |= dict.fromkeys((answer.id for answer in heard), episode["times"])

    def _finish(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        failed = [
            _answered(episode.name, question, None)
            for episode in data(trainer).unusable(split)
            for question in episode.questions
        ]
        if failed:
            self.scores.update(failed)
        with self.scores.sync_context():
            everything = self.scores.answered()
            figures = self.scores.compute()
        self.scores.reset()
        if trainer.logger is not None:
            trainer.logger.log_metrics(figures, trainer.global_step)
        if leaves_files(trainer):
            settings = stage(module, InstructionTuning).asking
            self._write(run_folder(trainer), split, everything, settings)
            with atomic_file(run_folder(trainer) / f"scores-{split}.json") as unfinished:
                unfinished.write_text(json.dumps(figures, indent=1))
            Console().print(table(figures))
            self._draw(trainer, split, everything, figures)
        self._times.clear()

    def _write(
        self, run: Path, split: str, answered: list[Answered], settings: Mapping[str, Any]
    ) -> None:
        place = {identifier: i for i, identifier in enumerate(self._times)}
        # What other ranks heard comes last, without its moments.
        answered = sorted(answered, key=lambda answer: place.get(answer.id, len(place)))
        with atomic_file(run / f"predictions-{split}.jsonl") as unfinished:
            rows = [
                asdict(answer) | {"times": self._times.get(answer.id, {}), "settings": settings}
                for answer in answered
            ]
            unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
        try:
            official = submission(self.benchmark, answered)
        except UserError:  # a benchmark without a format of its own
            return
        with atomic_file(run / f"submission-{split}.json") as unfinished:
            unfinished.write_text(json.dumps(official, indent=1))

    def _draw(
        self, trainer: Trainer, split: str, answered: list[Answered], figures: Mapping[str, float]
    ) -> None:
        worst, best = pick(answered, self.scores.protocol.each(answered), 10)
        # Read again, for the few that are shown: frames don't stay in memory, nor does every clip's
        # come to this rank.
        episodes = data(trainer).loaded(split, sorted({one.answer.clip for one in worst + best}))
        first = headline(figures)
        failed = sum(answer.failed for answer in answered)
        draw_answers(
            worst,
            best,
            episodes,
            f"{self.benchmark} · {split} · {first} {figures[first]:.2f}",
            f"{len(answered)} questions, {failed} failed; on the left, each question's own figure",
            run_folder(trainer) / f"answers-{split}.png",
        )


def _answered(clip: str, question: Any, prediction: str | None) -> Answered:
    return Answered(
        question.id,
        prediction,
        question.answers,
        question.options,
        question.labels,
        clip,
        question.prompt,
    )
