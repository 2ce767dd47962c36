"""Asks a benchmark's questions, scores the answers and saves them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console
from typing_extensions import override

from callbacks.answer_sheet import draw_answers, select_extremes
from callbacks.interruptible_barrier import InterruptibleBarrier
from callbacks.kept_answers import KeptAnswers
from callbacks.trainer_access import (
    data,
    expect_module,
    is_fast_dev_run,
    run_folder,
    save_logs,
    writes_files,
)
from vlynx_pl.adapters import adapter_hash
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track
from vlynx_pl.metrics import (
    Answered,
    Scores,
    describe_failures,
    failures,
    headline,
    intervals,
    table,
)
from vlynx_pl.runs.provenance import last_session
from vlynx_pl.tuning import InstructionTuning


class AnswerScores(Callback):
    """Scores the val questions after fitting, and the test questions in ``vlynx test``.

    Writes into the run folder ``predictions-<split>.jsonl``, ``submission-<split>.json`` in the
    benchmark's own format if it has one, ``answers-<split>.png`` with the ten worst and the ten
    best answers, and ``scores-<split>.json``. The scores mark the run as finished, unless they list
    figures that ``failed``. Questions that were left out, or whose media were, count as failed.

    Each process answers its share of the questions. Until they are scored, answers are kept on disk
    (see :class:`callbacks.kept_answers.KeptAnswers`): the same command neither reads nor asks again
    about a clip whose questions were all answered.
    """

    scores: Scores

    def __init__(self) -> None:
        self._kept: KeptAnswers | None = None  # None in a fast_dev_run
        self._earlier: dict[str, list[Answered]] = {}  # clip → answers of an earlier session
        self._barrier: InterruptibleBarrier | None = None

    # Not in on_train_end, which Lightning skips in a run that goes on after its last epoch.
    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fast_dev_run(trainer):
            return
        module = expect_module(pl_module, InstructionTuning)
        self._load_earlier(trainer, module, "val")
        self._begin(trainer, module)
        loader = data(trainer).val_dataloader()
        for batch in track(loader, "Answering", len(loader)):
            left = trainer.datamodule.transfer_batch_to_device(  # type: ignore[attr-defined]
                self._unanswered(batch), module.device, 0
            )
            with trainer.precision_plugin.test_step_context():
                said = [module.answers(episode) for episode in left]
            self._record(trainer, left, said)
        self._finish(trainer, module, "val")

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Before anything is computed, since the protocol may be unknown or need Java.
        if (benchmark := data(trainer).benchmark) is None:
            raise UserError("tuning needs questions; give data.benchmark and data.objective=tuning")
        self.scores = Scores(benchmark.rules())
        self.scores.protocol.check()
        if stage == "test":  # before on_test_start, since loaders start to read before it
            module = expect_module(pl_module, InstructionTuning)
            self._load_earlier(trainer, module, data(trainer).test_split)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, expect_module(pl_module, InstructionTuning))

    @override
    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        batch[:] = self._unanswered(batch)  # in place, since test_step is given the same list

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
        self._record(trainer, batch, outputs["answers"])

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = expect_module(pl_module, InstructionTuning)
        self._finish(trainer, module, data(trainer).test_split)

    def _load_earlier(self, trainer: Trainer, module: InstructionTuning, split: str) -> None:
        """Find the clips whose questions were all answered by an earlier session."""
        found: dict[str, Answered] = {}
        if not is_fast_dev_run(trainer):
            made_with = {
                "asking": module.asking,
                "llm_adapter": adapter_hash(module.backbone.llm_adapters, module.task),
                **module.adapter_metadata(),
                "backbone": module.backbone.fingerprint,
                "dtype": str(module.backbone.dtype),
                "precision": trainer.precision,
                "frames": data(trainer).preprocessing,
                "drawing": data(trainer).rendering_settings,
            }
            self._kept = KeptAnswers(run_folder(trainer), split, made_with, trainer.global_rank)
            # What the first rank reads, since all ranks must skip the same clips.
            found = self._kept.read() if trainer.is_global_zero else {}
            found = trainer.strategy.broadcast(found)
        self._earlier = {}
        for episode in data(trainer).episodes(split):
            asked = [Answered.of(question, None, episode.name) for question in episode.questions]
            answers = [found[one.id] for one in asked if one.id in found]
            if [replace(answer, prediction=None, times={}) for answer in answers] == asked:
                self._earlier[episode.name] = answers
        data(trainer).skip_streams_for(self._earlier)

    def _begin(self, trainer: Trainer, module: InstructionTuning) -> None:
        if self._kept is not None and trainer.is_global_zero:
            for path in self._kept.remove_others():
                rank_zero_info(f"Removed {path}: its answers were made with other settings")
        if self._earlier:
            count = sum(map(len, self._earlier.values()))
            rank_zero_info(f"{count} questions were answered before and are not asked again")
        self.scores.to(module.device)
        self._barrier = InterruptibleBarrier()

    def _unanswered(self, batch: Sequence[Any]) -> list[Any]:
        return [episode for episode in batch if episode["name"] not in self._earlier]

    def _record(self, trainer: Trainer, episodes: Any, answers: list[list[str]]) -> None:
        """Score and keep the answers of a batch."""
        new = [
            Answered.of(question, text, episode["name"], episode["times"])
            for episode, said in zip(episodes, answers, strict=True)
            for question, text in zip(episode["questions"], said, strict=True)
        ]
        if new:
            self.scores.update(new)
            if self._kept is not None:
                self._kept.keep(new)
        if asked_to_stop():
            raise Interrupted(f"Stopped while answering, as asked. {_kept_in(trainer)}")

    def _finish(self, trainer: Trainer, module: InstructionTuning, split: str) -> None:
        """Gather the answers of all ranks; on the first rank, write everything."""
        usable, unusable = data(trainer).episodes(split), data(trainer).failed_episodes(split)
        known = [answer for answers in self._earlier.values() for answer in answers]
        known += [Answered.of(question, None, e.name) for e in unusable for question in e.questions]
        if known and trainer.is_global_zero:
            self.scores.update(known)
        assert self._barrier is not None
        self._barrier.wait(_kept_in(trainer))
        with self.scores.sync_context():
            answered = self.scores.answered()
        self.scores.reset()
        data(trainer).skip_streams_for(())
        if not trainer.is_global_zero:
            return
        ids = [question.id for episode in (*usable, *unusable) for question in episode.questions]
        order = {identifier: number for number, identifier in enumerate(ids)}
        answered.sort(key=lambda answer: order[answer.id])
        figures = self.scores.figures(answered)
        failed, bars = failures(figures), intervals(figures)
        if trainer.logger is not None:
            first = headline(figures)
            ends = bars[first]._asdict() if first in bars else {}
            logged = figures | {f"{first}/{end}": figure for end, figure in ends.items()}
            trainer.logger.log_metrics(logged, trainer.global_step)
        if writes_files(trainer):
            run = run_folder(trainer)
            self._write_answers(trainer, split, answered, module.asking)
            try:
                self._draw(trainer, split, answered, figures)
            except UserError:  # a failed figure may be what answers are sorted by
                if not failed:
                    raise
                rank_zero_warn(f"answers-{split}.png is not drawn without the figures that failed")
            save_logs(trainer)
            # Last, since the scores mark the run as finished.
            scores: dict[str, Any] = {n: f for n, f in figures.items() if n not in failed}
            scores["intervals"] = bars
            scores |= {"failed": failed} if failed else {}
            scores["provenance"] = last_session(run)
            with atomic_file(run / f"scores-{split}.json") as unfinished:
                unfinished.write_text(json.dumps(scores, indent=1))
            if self._kept is not None and not failed:
                self._kept.remove()
            Console().print(table(figures, bars))
        if failed:
            raise UserError(
                f"{describe_failures(failed)}. All other figures stand. {_kept_in(trainer)} Or "
                f"score predictions-{split}.jsonl with vlynx score"
            )

    def _write_answers(
        self, trainer: Trainer, split: str, answered: list[Answered], settings: Mapping[str, Any]
    ) -> None:
        run, protocol = run_folder(trainer), self.scores.protocol
        with atomic_file(run / f"predictions-{split}.jsonl") as unfinished:
            made_with = {"benchmark": protocol.benchmark, "settings": settings}
            rows = [asdict(answer) | made_with for answer in answered]
            unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if protocol.submission is not None:
            with atomic_file(run / f"submission-{split}.json") as unfinished:
                unfinished.write_text(json.dumps(protocol.submission(answered), indent=1))

    def _draw(
        self, trainer: Trainer, split: str, answered: list[Answered], figures: Mapping[str, float]
    ) -> None:
        worst, best = select_extremes(answered, self.scores.protocol.each(answered), 10)
        # The few that are shown are read again: frames neither stay in memory nor reach this rank.
        episodes = data(trainer).loaded(split, sorted({one.answer.clip for one in worst + best}))
        first = headline(figures)
        failed = sum(answer.failed for answer in answered)
        title = (
            f"{self.scores.protocol.benchmark} · {split} · {first} {figures[first]:.2f}\n"
            f"{len(answered)} questions, {failed} failed; each answer is shown with its own score"
        )
        path = run_folder(trainer) / f"answers-{split}.png"
        draw_answers(worst, best, episodes, title, path)


def _kept_in(trainer: Trainer) -> str:
    return f"Every answer so far is in {run_folder(trainer)}. Run the same command again to go on."
