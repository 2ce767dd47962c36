"""How far a run is, as lines of a log: what a batch job has in place of Lightning's bar."""

import time
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

from vlynx_pl.progress import EVERY_S, duration, say, so_far


class ProgressLines(ProgressBar):
    """Writes to stderr, on rank 0, a line every half minute and one at the end of each epoch.

    Lightning's own bar writes nothing where stdout is no terminal.

    Args:
        every_s: seconds between two lines.
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        super().__init__()
        self.every_s = every_s
        self._enabled = True
        # Moments are those of the monotonic clock, in s.
        self._told = self._began_epoch = self._began_batches = 0.0
        self._batches = 0  # of a validation or a test
        self._start = self._line = (0.0, 0)  # moment and step at the start and the line before

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._told = self._began_epoch = time.monotonic()
        self._start = self._line = (self._told, trainer.global_step)
        self._say(f"Training begins at step {_steps(trainer)}")

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began_epoch = time.monotonic()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now, step = time.monotonic(), trainer.global_step
        if not self._enabled or now - self._told < self.every_s or step == self._line[1]:
            return
        line = [
            _figures(trainer.progress_bar_metrics),
            f"{_pace(self._line, now, step):.3g} s a step",
        ]
        if (total := _known(trainer.estimated_stepping_batches)) is not None:
            # By the pace of all steps, with the validations between them.
            line.append(f"{duration(_pace(self._start, now, step) * (total - step))} left")
        self._say(f"{_epoch(trainer)}, step {_steps(trainer)}: {_listed(line)}")
        self._told, self._line = now, (now, step)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            figures = _figures(trainer.callback_metrics)  # those of validation, too
            line = _listed([figures, duration(time.monotonic() - self._began_epoch)])
            self._say(f"{_epoch(trainer)} is over, step {_steps(trainer)}: {line}")

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_batches()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._line = (time.monotonic(), trainer.global_step)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_batches()
        self._say("Testing begins")

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._count_batch("Validation", trainer.num_val_batches)

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
        self._count_batch("Testing", trainer.num_test_batches)

    def _begin_batches(self) -> None:
        self._batches, self._began_batches = 0, time.monotonic()

    def _count_batch(self, what: str, counts: list[int | float]) -> None:
        self._batches += 1
        now, total = time.monotonic(), _known(sum(counts))
        since = self._began_batches if self._batches == total else self._told
        if now - max(since, self._began_batches) >= self.every_s:
            self._say(so_far(what, self._batches, total, now - self._began_batches))
            self._told = now

    def _say(self, line: str) -> None:
        if self._enabled:
            say(line)


def _pace(since: tuple[float, int], now: float, step: int) -> float:
    """Seconds a step since a moment and its step."""
    return (now - since[0]) / (step - since[1])


def _epoch(trainer: Trainer) -> str:
    of = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
    return f"Epoch {trainer.current_epoch + 1}{of}"


def _steps(trainer: Trainer) -> str:
    total = _known(trainer.estimated_stepping_batches)
    return f"{trainer.global_step}" + ("" if total is None else f" of {total}")


def _known(total: int | float) -> int | None:
    """A number of batches or steps; Lightning says infinity, or -1, where nobody knows."""
    return int(total) if 0 <= total < float("inf") else None


def _figures(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {float(figure):.4g}" for name, figure in metrics.items())


def _listed(parts: list[str]) -> str:
    return ", ".join(filter(None, parts))
