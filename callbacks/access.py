"""Typed access to what Lightning hands to callbacks without types."""

from pathlib import Path
from typing import Any, Protocol

from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.tuning import InstructionTuning


class AlignmentData(Protocol):
    """What aligning needs of a data module: batches with ``frames`` and ``clips``."""

    def reference_dataloader(self) -> DataLoader[dict[str, object]]:
        """Plain RGB videos."""

    @property
    def preprocessing(self) -> dict[str, object]:
        """How frames are made; plain numbers and names."""

    def report(self) -> dict[str, list[str]]:
        """What was left out of the data, each with its reason."""

    def val_dataloader(self) -> DataLoader[dict[str, object]]:
        """Held-out frames of the modality."""


class TuningData(Protocol):
    """What tuning needs of a data module: batches of episodes."""

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out episodes."""

    def unusable(self, part: Any) -> list[Any]:
        """Episodes whose media were left out."""


def tuning(module: LightningModule) -> InstructionTuning:
    """The module as the stage that answers questions.

    Raises:
        TypeError: it is another stage.
    """
    if not isinstance(module, InstructionTuning):
        raise TypeError(
            f"this callback belongs to InstructionTuning, not to {type(module).__name__}; remove "
            "it from trainer.callbacks"
        )
    return module


def alignment(module: LightningModule) -> InterfaceAlignment:
    """The module as the stage these callbacks belong to.

    Raises:
        TypeError: it is another stage.
    """
    if not isinstance(module, InterfaceAlignment):
        raise TypeError(
            f"this callback belongs to InterfaceAlignment, not to {type(module).__name__}; remove "
            "it from trainer.callbacks"
        )
    return module


def adapter_training(module: LightningModule) -> AdapterTraining:
    """The module as one of the stages.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(module, AdapterTraining):
        raise TypeError(
            f"{type(module).__name__} trains no adapter; remove the callback that saves"
        )
    return module


def data(trainer: Trainer) -> AlignmentData:
    """The data module of the run."""
    found: AlignmentData = trainer.datamodule  # type: ignore[attr-defined]
    return found


def tuning_data(trainer: Trainer) -> TuningData:
    """The data module of the run, as tuning needs it."""
    found: TuningData = trainer.datamodule  # type: ignore[attr-defined]
    return found


def leaves_files(trainer: Trainer) -> bool:
    """Whether this process writes the run's files: rank 0, and not in a fast_dev_run."""
    return trainer.is_global_zero and not is_trial(trainer)


def is_trial(trainer: Trainer) -> bool:
    """Whether this is a fast_dev_run, which leaves no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def run_folder(trainer: Trainer) -> Path:
    """The folder that everything of a run is written into."""
    return Path(trainer.default_root_dir)
