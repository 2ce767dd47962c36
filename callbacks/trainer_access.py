"""Typed access to what Lightning hands to callbacks without types."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from vlynx_pl.io.tensor_store import TokenStore

_Stage = TypeVar("_Stage", bound=LightningModule)


class RunData(Protocol):
    """The part of ``datamodules.base.ModalityDataModule`` that callbacks use."""

    benchmark: Any

    @property
    def test_split(self) -> str: ...
    @property
    def preprocessing(self) -> dict[str, object]: ...
    @property
    def rendering_settings(self) -> dict[str, object]: ...
    @property
    def found(self) -> str: ...
    def reference_names(self) -> list[str]: ...
    def reference_dataloader(self, positions: Sequence[int] | None = None) -> DataLoader[Any]: ...
    def val_dataloader(self) -> DataLoader[Any]: ...
    def report(self) -> dict[str, list[str]]: ...
    def episodes(self, part: Any) -> list[Any]: ...
    def failed_episodes(self, part: Any) -> list[Any]: ...
    def skip_streams_for(self, names: Collection[str]) -> None: ...
    def keep_tokens(self, store: TokenStore) -> Any: ...
    def episode_batches(self, part: Any, names: Sequence[str]) -> DataLoader[Any]: ...
    def loaded(self, part: Any, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]: ...


def expect_module(module: LightningModule, kind: type[_Stage]) -> _Stage:
    """Return the module as the stage that a callback belongs to; raise TypeError for another."""
    if not isinstance(module, kind):
        raise TypeError(
            f"this callback belongs to {kind.__name__}, not to {type(module).__name__}; remove "
            "it from trainer.callbacks"
        )
    return module


def data(trainer: Trainer) -> RunData:
    """Return the data module of the run."""
    found: RunData = trainer.datamodule  # type: ignore[attr-defined]
    return found


def save_logs(trainer: Trainer) -> None:
    """Write logs to disk, which must happen before any file that says the run got this far."""
    for logger in trainer.loggers:
        logger.save()


def writes_files(trainer: Trainer) -> bool:
    """Whether this process writes the run's files: rank 0, outside a fast_dev_run."""
    return trainer.is_global_zero and not is_fast_dev_run(trainer)


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether this is a fast_dev_run, which writes no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def run_folder(trainer: Trainer) -> Path:
    """Return the folder that all files of the run are written into."""
    return Path(trainer.default_root_dir)
