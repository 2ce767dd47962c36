"""Progress of a run as lines of a log, for batch jobs, where a progress bar is unreadable."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

from vlynx_pl.io.progress import EVERY_S, LogBar, say


class ProgressLines(ProgressBar):
    """Writes a line to stderr every half minute and after each epoch, on rank 0 only.

    Lightning's rich bar writes nothing unless stdout is a terminal, and its tqdm bar writes one
    ever-growing line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._steps = self._batches = LogBar(disable=True)

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        self._steps = self._bar("Training", steps, initial=trainer.global_step)

    @override
    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        if not self._enabled:
            return
        state = _listed(f"epoch {_epoch(trainer)}", trainer.progress_bar_metrics)
        self._steps.set_postfix_str(state, refresh=False)
        self._steps.update(trainer.global_step - self._steps.n)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            begin = f"Epoch {_epoch(trainer)} is over at step {trainer.global_step}"
            say(_listed(begin, trainer.callback_metrics))  # with those of validation

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps.close()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        for bar in (self._batches, self._steps):
            bar.close()  # now, since a bar that is collected later writes after the error's message

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = self._bar("Validation", sum(trainer.num_val_batches), delay=EVERY_S)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches = self._bar("Testing", sum(trainer.num_test_batches))

    @override
    def on_validation_batch_end(self, *arguments: Any, **options: Any) -> None:
        self._batches.update()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._batches.close()

    on_test_batch_end, on_test_end = on_validation_batch_end, on_validation_end

    def _bar(self, what: str, total: float, **options: Any) -> LogBar:
        # Lightning gives infinity or -1 for unknown.
        known = int(total) if 0 <= total < float("inf") else None
        return LogBar(None, what, known, disable=not self._enabled, **options)


def _epoch(trainer: Trainer) -> str:
    of = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
    return f"{trainer.current_epoch + 1}{of}"


def _listed(begin: str, metrics: Mapping[str, Any]) -> str:
    figures = (f"{name} {float(figure):.4g}" for name, figure in metrics.items())
    return ", ".join([begin, *figures])
