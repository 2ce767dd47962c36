"""Asks a benchmark's questions, scores the answers and saves them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.asking_again import AskingAgain
from callbacks.evaluation import Evaluation
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
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track
from vlynx_pl.metrics import Answered, Scores, describe_failures
from vlynx_pl.muting import BASELINE, Encodings, Way, ways_to_mute
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

    Args:
        probe: also ask every question without each stream, and with another clip's, and report how
            much the answers depend on it. A run that reads the video alone has no probe.
        baseline: also ask the untuned backbone, about the video alone, of which the run must keep
            all tokens.
    """

    scores: Scores

    def __init__(self, probe: bool = True, baseline: bool = False) -> None:
        self.probe, self.baseline = probe, baseline
        self._made_with: dict[str, Any] = {}
        self._kept_again: KeptAnswers | None = None
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
        module = expect_module(pl_module, InstructionTuning)
        if self.baseline and not module.streams.reads_whole_video:
            raise UserError(
                "the baseline reads all tokens of the video, of which this run keeps some; ask "
                "without --baseline, or leave the video out of model.streams.keep"
            )
        if stage == "test":  # before on_test_start, since loaders start to read before it
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
            self._made_with = {
                "asking": module.asking,
                "llm_adapter": adapter_hash(module.backbone.llm_adapters, module.task),
                **module.adapter_metadata(),
                "backbone": module.backbone.fingerprint,
                "dtype": str(module.backbone.dtype),
                "precision": trainer.precision,
                "frames": data(trainer).preprocessing,
                "drawing": data(trainer).rendering_settings,
            }
            self._kept = KeptAnswers(
                run_folder(trainer), split, self._made_with, trainer.global_rank
            )
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
        if not is_fast_dev_run(trainer) and self._ways(module, 2):
            module.encodings = Encodings()

    def _ways(self, module: InstructionTuning, clips: int) -> list[Way]:
        """The other ways to ask about so many clips."""
        ways = ways_to_mute(module.streams, clips) if self.probe else []
        return [*ways, BASELINE] if self.baseline else ways

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
        data(trainer).skip_streams_for(())
        assert self._barrier is not None
        self._barrier.wait(_kept_in(trainer))
        with self.scores.sync_context():
            answered = self.scores.answered()
        self.scores.reset()
        ids = [question.id for episode in (*usable, *unusable) for question in episode.questions]
        order = {identifier: number for number, identifier in enumerate(ids)}
        answered.sort(key=lambda answer: order[answer.id])
        again = {} if self._kept is None else self._again(trainer, module, split, answered)
        if trainer.is_global_zero:
            made = Evaluation(self.scores.protocol, split, answered, again)
            self._write(trainer, made, module.asking)

    def _again(
        self, trainer: Trainer, module: InstructionTuning, split: str, answered: list[Answered]
    ) -> dict[Way, list[Answered]]:
        """Ask the questions on the usable clips again; say so if that is not possible."""
        reached = {answer.clip for answer in answered}
        clips = {episode.name for episode in data(trainer).episodes(split)} & reached
        ways = self._ways(module, len(clips))
        if self.probe and len(module.streams.sources) == 1:
            rank_zero_info("There is no probe, since the run reads the video alone")
        elif self.probe and len(clips) == 1:
            rank_zero_info(f"{split} has one clip, so no stream is replaced by another clip's")
        if not (ways and clips):
            return {}
        run, rank = run_folder(trainer), trainer.global_rank
        self._kept_again = KeptAnswers(run, f"{split}-again", self._made_with, rank)
        asking = AskingAgain(trainer, module, split, ways, self.scores.protocol, self._kept_again)
        asking.ask(clips, _kept_in(trainer))
        module.encodings = None
        assert self._barrier is not None
        self._barrier.wait(_kept_in(trainer))
        return asking.gathered(answered)

    def _write(self, trainer: Trainer, made: Evaluation, settings: Mapping[str, Any]) -> None:
        if trainer.logger is not None:
            trainer.logger.log_metrics(made.logged, trainer.global_step)
        if writes_files(trainer):
            run = run_folder(trainer)
            made.write_answers(run, settings)
            made.draw(trainer)
            save_logs(trainer)
            made.write_scores(run)  # last, since the scores mark the run as finished
            if not made.failed:
                for kept in self._kept, self._kept_again:
                    if kept is not None:
                        kept.remove()
            made.show()
        if made.failed:
            raise UserError(
                f"{describe_failures(made.failed)}. All other figures stand. {_kept_in(trainer)} "
                f"Or score predictions-{made.split}.jsonl with vlynx score"
            )


def _kept_in(trainer: Trainer) -> str:
    return f"Every answer so far is in {run_folder(trainer)}. Run the same command again to go on."
