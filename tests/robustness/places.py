"""The places of a run at which tests stop it, from within the process or from outside."""

import os
import sys
import time
from pathlib import Path

from lightning import Callback

from vlynx_pl.io.interruption import asked_to_stop


class Places(Callback):
    """Calls :meth:`at` with the name of every place that the run reaches.

    Batches are named ``<epoch>.<number>``. It must be the first callback, to act before others.
    """

    def at(self, place: str, trainer) -> None:
        raise NotImplementedError

    def on_fit_start(self, trainer, pl_module):
        self.at("start", trainer)

    def on_train_epoch_start(self, trainer, pl_module):
        self.at(f"start of epoch {trainer.current_epoch}", trainer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.at(f"before batch {trainer.current_epoch}.{batch_idx}", trainer)

    def on_after_backward(self, trainer, pl_module):
        self.at(f"in batch {trainer.current_epoch}.{trainer.fit_loop.batch_idx}", trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.at(f"after batch {trainer.current_epoch}.{batch_idx}", trainer)

    def on_validation_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.at(f"before validation {trainer.current_epoch}", trainer)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, loader=0):
        if not trainer.sanity_checking:
            self.at(f"in validation {trainer.current_epoch}.{batch_idx}", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self.at(f"end of epoch {trainer.current_epoch}", trainer)

    def on_train_end(self, trainer, pl_module):
        self.at("end of training", trainer)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, loader=0):
        self.at(f"answers {batch_idx}", trainer)


class Halt(Places):
    """Waits at the place that a file names, which may be ``writing <name of a file>``.

    Args:
        file: holds the place. It is renamed to ``.reached`` when the run is there, and the run
            continues when that is removed. A file ``.asked`` tells that the run was asked to stop.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def setup(self, trainer, pl_module, stage):
        if trainer.is_global_zero:
            sys.addaudithook(self._on_event)

    def _on_event(self, event, arguments):
        if event == "os.rename":
            self._wait_at(f"writing {Path(os.fsdecode(arguments[1])).name}")

    def at(self, place, trainer):
        if trainer.is_global_zero:
            self._wait_at(place)

    def _wait_at(self, place: str) -> None:
        if self.file.exists() and self.file.read_text() == place:
            reached = self.file.rename(self.file.with_suffix(".reached"))
            while reached.exists():
                if asked_to_stop():
                    self.file.with_suffix(".asked").touch()
                time.sleep(0.01)
