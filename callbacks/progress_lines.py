"""Progress of a run as lines of a log, for batch jobs, where a progress bar is unreadable."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

from vlynx_pl.io.progress import Lines, say


class ProgressLines(ProgressBar):
    """Writes a line to stderr every half minute and after each epoch, on rank 0 only.

    Lightning's rich bar writes nothing unless stdout is a terminal, and its tqdm bar writes one
    ever-growing line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = _known(trainer.estimated_stepping_batches)
        self._steps = Lines("Training: step", steps, trainer.global_step)
        if self._enabled:
            self._steps.begin()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._enabled:
            state = _listed(f"epoch {_epoch(trainer)}", trainer.progress_bar_metrics)
            self._steps.at(trainer.global_step, state)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            begin = f"Epoch {_epoch(trainer)} is over at step {trainer.global_step}"
            say(_listed(begin, trainer.callback_metrics))  # those of validation, too

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = Lines("Validation:", _known(sum(trainer.num_val_batches)))

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = Lines("Testing:", _known(sum(trainer.num_test_batches)))
        if self._enabled:
            self._batches.begin()

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
        if self._enabled and not trainer.sanity_checking:
            self._batches.at(batch_idx + 1)

    on_test_batch_end = on_validation_batch_end


def _epoch(trainer: Trainer) -> str:
    of = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
    return f"{trainer.current_epoch + 1}{of}"


def _known(total: int | float) -> int | None:
    """The number of batches or steps; None where Lightning gives infinity or -1 for unknown."""
    return int(total) if 0 <= total < float("inf") else None


def _listed(begin: str, metrics: Mapping[str, Any]) -> str:
    figures = (f"{name} {float(figure):.4g}" for name, figure in metrics.items())
    return ", ".join([begin, *figures])
