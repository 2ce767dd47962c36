"""Typed access to what Lightning hands to callbacks without types."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from vlynx_pl.io.tensor_store import TokenStore

_Stage = TypeVar("_Stage", bound=LightningModule)


class RunData(Protocol):
    """What callbacks need of a data module: batches of frames and clips, or of episodes."""

    benchmark: Any
    """Whose questions are asked; its ``rules()`` say how the answers are scored."""

    def reference_names(self) -> list[str]:
        """Plain RGB videos, for alignment, in the order in which they are read."""

    def reference_dataloader(self, positions: Sequence[int] | None = None) -> DataLoader[Any]:
        """Some of these videos, one a batch; None is this rank's share."""

    @property
    def test_split(self) -> str:
        """What is asked in a test."""

    @property
    def preprocessing(self) -> dict[str, object]:
        """How frames are made; plain numbers and names."""

    @property
    def drawing(self) -> dict[str, object]:
        """Modality → the settings that its frames are drawn with."""

    def report(self) -> dict[str, list[str]]:
        """What was left out of the data, each with its reason."""

    def val_dataloader(self) -> DataLoader[Any]:
        """What is held out."""

    def episodes(self, part: Any) -> list[Any]:
        """Episodes whose media can be used, in order."""

    def skip_streams_for(self, names: Collection[str]) -> None:
        """Give episodes of these names without streams."""

    def failed_episodes(self, part: Any) -> list[Any]:
        """Episodes whose media were left out."""

    def keep_tokens(self, store: TokenStore) -> Any:
        """Do not read what a store holds; gives a dataset of what it does not hold."""

    def loaded(self, part: Any, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Episodes read again, by name, with ``streams`` and ``times``; bad ones are absent."""


def expect_module(module: LightningModule, kind: type[_Stage]) -> _Stage:
    """The module as the stage that a callback belongs to.

    Raises:
        TypeError: it is another stage.
    """
    if not isinstance(module, kind):
        raise TypeError(
            f"this callback belongs to {kind.__name__}, not to {type(module).__name__}; remove "
            "it from trainer.callbacks"
        )
    return module


def data(trainer: Trainer) -> RunData:
    """The data module of the run."""
    found: RunData = trainer.datamodule  # type: ignore[attr-defined]
    return found


def save_logs(trainer: Trainer) -> None:
    """Bring what was logged to the disk, where it must be before what says that a run got there."""
    for logger in trainer.loggers:
        logger.save()


def writes_files(trainer: Trainer) -> bool:
    """Whether this process writes the run's files: rank 0, and not in a fast_dev_run."""
    return trainer.is_global_zero and not is_fast_dev_run(trainer)


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether this is a fast_dev_run, which leaves no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def run_folder(trainer: Trainer) -> Path:
    """The folder that everything of a run is written into."""
    return Path(trainer.default_root_dir)
