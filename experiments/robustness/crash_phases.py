"""Tells from outside what a run is doing: a callback notes it in a small file, also when killed.

What ``os.pwrite`` has written stays when the process is killed in the very next instruction.
"""

import os
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

from lightning import Callback, LightningModule, Trainer
from torch.nn.modules.module import register_module_forward_pre_hook
from typing_extensions import override

from callbacks import ReferenceGuidance

PHASES: Final = (
    "start-up",
    "guidance",
    "step",
    "checkpoint write",
    "adapter write",
    "validation",
    "report",
)
_LAYOUT: Final = Struct(f"<{2 + len(PHASES)}I")


class Place(NamedTuple):
    """Where a run is.

    Args:
        phase: one of ``PHASES``.
        steps: optimizer steps that this process has done.
        begun: how often each of ``PHASES`` was begun.
    """

    phase: str = PHASES[0]
    steps: int = 0
    begun: tuple[int, ...] = (1, *[0] * (len(PHASES) - 1))

    def times(self, phase: str) -> int:
        """How often a phase was begun."""
        return self.begun[PHASES.index(phase)]


def write_place(file: Path, place: Place) -> None:
    """Make or replace the file."""
    file.write_bytes(_packed(place))


def read_place(file: Path) -> Place:
    """What a run has noted."""
    phase, steps, *begun = _LAYOUT.unpack(file.read_bytes())
    return Place(PHASES[phase], steps, tuple(begun))


class Phases(Callback):
    """Notes where the run is. It must be the first callback, so that it hears of all before others.

    Args:
        file: made before by :func:`write_place`.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self._place = Place()
        self._before = self._place.phase

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._descriptor = os.open(self.file, os.O_WRONLY)
        self._hook = register_module_forward_pre_hook(self._on_forward)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._hook.remove()
        os.close(self._descriptor)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        computed = any(isinstance(each, ReferenceGuidance) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if computed and not Path(trainer.default_root_dir, "guidance.safetensors").exists():
            self._begin("guidance")

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(self._place._replace(phase="start-up"))

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(self._place._replace(phase="step"))

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._begin("step")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._note(self._place._replace(steps=self._place.steps + 1))

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._begin("validation")

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._before = self._place.phase
        self._begin("checkpoint write")

    def _on_forward(self, *_: Any) -> None:
        """The first thing that any module computes ends a write, of which no hook tells the end."""
        if self._place.phase == "checkpoint write":
            self._note(self._place._replace(phase=self._before))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("adapter write")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("report")

    def _begin(self, phase: str) -> None:
        begun = list(self._place.begun)
        begun[PHASES.index(phase)] += 1
        self._note(self._place._replace(phase=phase, begun=tuple(begun)))

    def _note(self, place: Place) -> None:
        self._place = place
        os.pwrite(self._descriptor, _packed(place), 0)


def _packed(place: Place) -> bytes:
    return _LAYOUT.pack(PHASES.index(place.phase), place.steps, *place.begun)
