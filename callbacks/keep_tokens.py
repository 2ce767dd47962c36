"""Keeps the frozen tokens on disk, so that later epochs neither decode nor encode."""

import shutil
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from callbacks.trainer_access import data, expect_module, is_fast_dev_run
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import TokenStore
from vlynx_pl.tuning import InstructionTuning


class KeepTokens(Callback):
    """Keeps the tokens of every clip once it is read, for later epochs and other runs.

    With ``data.on_bad_sample=skip`` all clips are read nevertheless, to find the bad ones.

    Args:
        folder: of the :class:`vlynx_pl.io.tensor_store.TokenStore`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if is_fast_dev_run(trainer):
            return
        module = expect_module(pl_module, InstructionTuning)
        keys = module.streams.token_cache_keys().items()
        store = TokenStore(self.folder, {name: f"{key} {trainer.precision}" for name, key in keys})
        missing = data(trainer).keep_tokens(store)
        module.token_store = store
        if len(missing):
            first = missing.reader(missing.items[0])
            module.streams.check(first)
            size = len(missing) * module.streams.kept_bytes(first)
            free = shutil.disk_usage(_first_there(self.folder)).free
            say = (
                f"Tokens of {len(missing)} clips are not in {self.folder} yet: about "
                f"{size / 1e9:.2f} GB, {free / 1e9:.0f} GB are free"
            )
            if size > free:
                raise UserError(
                    f"{say}; give KeepTokens another folder, keep fewer tokens "
                    "(model.streams.keep), or take it out of trainer.callbacks"
                )
            rank_zero_info(say)


def _first_there(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
