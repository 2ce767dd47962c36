"""Saves where a run stands, so that the same command goes on there, whatever ended it."""

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
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.interruption import Interrupted, asked_to_stop, note_signals
from vlynx_pl.runs.checkpoints import checkpoint_path, checkpoints

_GO_ON, _SAVE, _STOP = 0, 1, 2


class RunCheckpoint(Checkpoint):
    """Writes ``checkpoints/step-*.ckpt`` into the run folder between two steps.

    It saves every so many minutes, before every validation, at the end of an epoch without one, and
    when SIGTERM, SIGUSR1 or Ctrl-C asks the run to stop; the one before is kept. All ranks agree
    before every step, and every batch of a validation, on whether to save or to stop, over a group
    of their own that does not wait for the GPU.

    Whatever else sets ``trainer.should_stop`` amid training, such as ``trainer.max_time``, asks the
    run to stop likewise. Only EarlyStopping ends it, as its last epoch does.

    Args:
        minutes: time between two checkpoints; 0 saves before every step.
        keep: how many checkpoints stay.
        timeout_minutes: how long ranks wait for one that does not answer, before they give up.
    """

    def __init__(self, minutes: float = 10.0, keep: int = 2, timeout_minutes: float = 30.0) -> None:
        if keep < 1:
            raise UserError(f"checkpoint.keep={keep} would remove every checkpoint; keep 1 or more")
        self.minutes, self.keep, self.timeout_minutes = minutes, keep, timeout_minutes
        self._saved_at = 0.0  # s of the monotonic clock, which nobody sets
        self._group: Any = None
        self._saved_step = -1
        self._limit = ""  # why the run is to stop, beside signals
        self._amid = False  # saving where Lightning does not

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._limit = ""
        # Lightning's own handlers, set after this, act at once: amid a step, with a collective
        # call that the other ranks do not make, and under SLURM with a checkpoint of their own.
        connector: Any = trainer._signal_connector

        def register() -> None:
            connector._original_handlers = connector._get_current_signal_handlers()
            note_signals()  # Lightning puts the former ones back at the end

        connector.register_signal_handlers = register

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            patience = timedelta(minutes=self.timeout_minutes)
            self._group = dist.new_group(backend="gloo", timeout=patience)
        self._saved_at = time.monotonic()
        self._take_over(trainer)
        if any(map(_has_stopped, trainer.callbacks)):  # type: ignore[attr-defined]
            trainer.should_stop = True  # in the session before, which did not come to its results

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over(trainer)
        # Of a batch that is fetched again, Lightning forgets that it was fetched before.
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        batches.ready = batches.started

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches or is_fast_dev_run(trainer):
            return  # gradients that are summed up are not kept
        self._take_over(trainer)
        wanted = self._agreed()
        if wanted >= _SAVE:
            self._save(trainer, amid=True)
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
            self._save(trainer, amid=True)

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if _between_steps(trainer) and self._agreed() == _STOP:
            raise Interrupted(self._farewell(trainer))

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_over(trainer)
        # What comes after the last one may take hours, or be stopped.
        if self._saved_step != trainer.global_step and not is_fast_dev_run(trainer):
            self._save(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        launcher: Any = trainer.strategy.launcher
        if isinstance(exception, Interrupted) and launcher is not None:
            launcher.kill(signal.SIGTERM)  # whoever asked may have told this process alone

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer):  # a session that goes on has all of the time again
                checkpoint["callbacks"].pop(callback.state_key, None)
        loop = checkpoint["loops"]["fit_loop"]
        if self._amid and trainer.validating:
            _validate_again(loop)
        elif self._amid:
            counted = not trainer.fit_loop.epoch_loop._should_accumulate()
            _begin_batch_again(loop, counted)

    def _take_over(self, trainer: Trainer) -> None:
        """Stop where nothing is lost, and not where Lightning would for ``should_stop``.

        Lightning ends the epoch there, and takes its other batches for done.
        """
        if not trainer.should_stop or is_fast_dev_run(trainer):
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(_has_stopped(one) for one in callbacks) or not trainer.fit_loop._can_stop_early:
            return
        trainer.should_stop = False
        over = any(isinstance(one, Timer) and (one.time_remaining() or 1) <= 0 for one in callbacks)
        self._limit = "trainer.max_time is over" if over else "a callback has set should_stop"

    def _agreed(self) -> int:
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        wanted = torch.tensor(_STOP if asked_to_stop() or self._limit else _SAVE if due else _GO_ON)
        if self._group is not None:
            dist.all_reduce(wanted, dist.ReduceOp.MAX, self._group)
        return int(wanted)

    def _save(self, trainer: Trainer, amid: bool = False) -> None:
        run = run_folder(trainer)
        path = checkpoint_path(run, trainer.global_step)
        self._amid = amid
        if trainer.is_global_zero:
            save_logs(trainer)
            with atomic_file(path) as unfinished:
                trainer.save_checkpoint(unfinished, weights_only=False)
            kept = checkpoints(run)
            newest = kept.index(path)  # later ones are damaged, or this would not be the step
            for other in (*kept[:newest], *kept[newest + self.keep :]):
                other.unlink()
        else:
            trainer.save_checkpoint(path, weights_only=False)  # writes nothing, but takes part
        if self._group is not None:
            dist.barrier(self._group)  # none leaves before the file has its name
        self._amid = False
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def _farewell(self, trainer: Trainer) -> str:
        return (
            f"Stopped at step {trainer.global_step}, {self._limit or 'as asked'}; all of it is in "
            f"{run_folder(trainer) / 'checkpoints'}. Run the same command again to go on."
        )


def _has_stopped(callback: Callback) -> bool:
    """Whether it is an EarlyStopping that has seen enough, which is an end that a user chose."""
    return (
        isinstance(callback, EarlyStopping)
        and callback.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
    )


def _between_steps(trainer: Trainer) -> bool:
    """In a validation: whether it is one of a fit, and no gradients are summed up so far."""
    if trainer.state.fn != "fit" or trainer.sanity_checking or is_fast_dev_run(trainer):
        return False
    return not trainer.fit_loop.epoch_loop._should_accumulate()


# Lightning reads from its counters where to go on. It was made to save after a step, when what is
# logged and validated for that step is still to come and is then lost; these two places have
# nothing half done. Tests compare every way of going on with a run that was not stopped.


def _begin_batch_again(loop: dict[str, Any], counted: bool) -> None:
    """A batch was fetched and not begun: it is fetched again."""
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    # Lightning takes a step that is begun for one that is done, and will count it.
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= counted


def _validate_again(loop: dict[str, Any]) -> None:
    """A validation is due or was begun: it is begun anew."""
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    validation = loop["epoch_loop.val_loop.batch_progress"]
    validation |= {"total": dict(begun), "current": dict(begun), "is_last_batch": False}
