"""Saves the state of a run, so that the same command resumes it, whatever ended it."""

import signal
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from typing_extensions import override

from callbacks.trainer_access import is_fast_dev_run, run_folder, save_logs
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.interruption import Interrupted, asked_to_stop, note_signals
from vlynx_pl.runs.checkpoints import checkpoint_path, checkpoints

_GO_ON, _SAVE, _STOP = 0, 1, 2
_KEEP = 2  # checkpoints


class RunCheckpoint(Checkpoint):
    """Writes ``checkpoints/step-*.ckpt`` into the run folder between two steps.

    It saves at intervals, before every validation, at the end of an epoch without validation, and
    when SIGTERM, SIGUSR1 or Ctrl-C asks the run to stop, and keeps the newest two. Before every
    step and every validation batch all ranks agree on whether to save or to stop, through a process
    group that does not wait for the GPU.

    Anything else that sets ``trainer.should_stop`` during training, such as ``trainer.max_time``,
    also asks the run to stop. Only EarlyStopping ends it like its last epoch.

    Args:
        minutes: time between two checkpoints; 0 saves before every step.
        timeout_minutes: how long ranks wait for one that does not answer.
    """

    def __init__(self, minutes: float = 10.0, timeout_minutes: float = 30.0) -> None:
        self.minutes, self.timeout_minutes = minutes, timeout_minutes
        self._saved_at = 0.0  # s, by the monotonic clock
        self._group: Any = None
        self._saved_step = -1
        self._limit = ""  # why the run should stop, apart from signals
        self._within_epoch = False  # whether a checkpoint is saved where Lightning would not

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._limit = ""
        # Lightning's own handlers, set after this, act at once: during a step, with a collective
        # call that other ranks do not make, and under SLURM with a checkpoint of their own.
        connector: Any = trainer._signal_connector

        def register() -> None:
            connector._original_handlers = connector._get_current_signal_handlers()
            note_signals()  # Lightning restores the original handlers at the end

        connector.register_signal_handlers = register

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            patience = timedelta(minutes=self.timeout_minutes)
            self._group = dist.new_group(backend="gloo", timeout=patience)
        self._saved_at = time.monotonic()
        self._take_over(trainer)
        if any(map(_has_stopped, trainer.callbacks)):  # type: ignore[attr-defined]
            trainer.should_stop = True  # EarlyStopping ended the session before its results

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over(trainer)
        # A batch that is fetched again would be counted twice as fetched.
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        batches.ready = batches.started

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches or is_fast_dev_run(trainer):
            return  # accumulated gradients are not saved
        self._take_over(trainer)
        wanted = self._agree()
        if wanted >= _SAVE:
            self._save(trainer, within_epoch=True)
        if wanted == _STOP:
            raise Interrupted(self._farewell(trainer))

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._take_over(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _between_steps(trainer):
            self._save(trainer, within_epoch=True)

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if _between_steps(trainer) and self._agree() == _STOP:
            raise Interrupted(self._farewell(trainer))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over(trainer)
        # What follows the last epoch may take hours, or be stopped.
        if self._saved_step != trainer.global_step and not is_fast_dev_run(trainer):
            self._save(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        launcher: Any = trainer.strategy.launcher
        if isinstance(exception, Interrupted) and launcher is not None:
            launcher.kill(signal.SIGTERM)  # the signal may have reached this process alone

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer):  # each session has the full time again
                checkpoint["callbacks"].pop(callback.state_key, None)
        loop = checkpoint["loops"]["fit_loop"]
        if self._within_epoch and trainer.validating:
            _validate_again(loop)
        elif self._within_epoch:
            counted = not trainer.fit_loop.epoch_loop._should_accumulate()
            _begin_batch_again(loop, counted)

    def _take_over(self, trainer: Trainer) -> None:
        """Turn ``should_stop`` into a stop between two steps, where nothing is lost.

        Lightning would end the epoch at once and count its remaining batches as done.
        """
        if not trainer.should_stop or is_fast_dev_run(trainer):
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(_has_stopped(one) for one in callbacks) or not trainer.fit_loop._can_stop_early:
            return
        trainer.should_stop = False
        over = any(isinstance(one, Timer) and (one.time_remaining() or 1) <= 0 for one in callbacks)
        self._limit = "trainer.max_time is over" if over else "a callback has set should_stop"

    def _agree(self) -> int:
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        wanted = torch.tensor(_STOP if asked_to_stop() or self._limit else _SAVE if due else _GO_ON)
        if self._group is not None:
            dist.all_reduce(wanted, dist.ReduceOp.MAX, self._group)
        return int(wanted)

    def _save(self, trainer: Trainer, within_epoch: bool = False) -> None:
        run = run_folder(trainer)
        path = checkpoint_path(run, trainer.global_step)
        self._within_epoch = within_epoch
        if trainer.is_global_zero:
            save_logs(trainer)
            with atomic_file(path) as unfinished:
                trainer.save_checkpoint(unfinished, weights_only=False)
            kept = checkpoints(run)
            newest = kept.index(
                path
            )  # later ones must be damaged, or the run had resumed from them
            for other in (*kept[:newest], *kept[newest + _KEEP :]):
                other.unlink()
        else:
            trainer.save_checkpoint(path, weights_only=False)  # takes part without writing
        if self._group is not None:
            dist.barrier(self._group)  # all wait until the file is complete
        self._within_epoch = False
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def _farewell(self, trainer: Trainer) -> str:
        return (
            f"Stopped at step {trainer.global_step}, {self._limit or 'as asked'}; all of it is in "
            f"{run_folder(trainer) / 'checkpoints'}. Run the same command again to go on."
        )


def _has_stopped(callback: Callback) -> bool:
    """Whether it is an EarlyStopping that has ended the run."""
    return (
        isinstance(callback, EarlyStopping)
        and callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
    )


def _between_steps(trainer: Trainer) -> bool:
    """Whether a validation belongs to a fit, at a step without accumulated gradients."""
    if trainer.state.fn != "fit" or trainer.sanity_checking or is_fast_dev_run(trainer):
        return False
    return not trainer.fit_loop.epoch_loop._should_accumulate()


# Lightning resumes by its counters. It expects checkpoints after a step, when that step's logging
# and validation are still to come and would be lost. At these two places nothing is half done.
# Tests compare every way of resuming with a run that was not stopped.


def _begin_batch_again(loop: dict[str, Any], counted: bool) -> None:
    """Make a batch that was fetched but not begun be fetched again."""
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    # Lightning counts a begun step as done.
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= counted


def _validate_again(loop: dict[str, Any]) -> None:
    """Make a validation that is due or was begun start from its first batch."""
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    validation = loop["epoch_loop.val_loop.batch_progress"]
    validation |= {"total": dict(begun), "current": dict(begun), "is_last_batch": False}
