"""Faults of a training step, told with the clips that were in it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.access import is_trial, run_folder
from callbacks.access import stage as as_stage
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.errors import UserError
from vlynx_pl.files import atomic_file


class TrainingFaults(Callback):
    """Stops before a gradient that is not finite reaches the adapter; explains a lack of memory."""

    def __init__(self) -> None:
        self._batch: Any = None

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.precision == "16-mixed":
            return  # its scaler leaves such steps out
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        # Of all ranks, which so stop together, since DDP has averaged them.
        if torch.nn.utils.get_total_norm(gradients).isfinite():
            return
        kept = "nowhere, in a trial"
        if not is_trial(trainer):
            name = f"not-finite-step-{trainer.global_step}-rank-{trainer.global_rank}.safetensors"
            _save(self._batch, path := run_folder(trainer) / name)
            kept = str(path)
        raise UserError(
            f"the gradient of step {trainer.global_step} is not finite, and the adapter was left "
            f"as it was; this rank's batch, of {', '.join(_names(self._batch))}, is kept in "
            f"{kept}. Look at these clips (vlynx check); or lower model.learning_rate or give "
            "trainer.gradient_clip_val, in another folder with --run=FOLDER"
        )

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._batch = None

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._batch is not None and _is_lack_of_memory(exception):
            sizes = as_stage(pl_module, AdapterTraining).sizes(self._batch)
            reason = str(exception).partition("\n")[0] or type(exception).__name__
            raise UserError(
                f"out of memory at step {trainer.global_step} ({reason}). The batch of "
                f"{', '.join(_names(self._batch))} has {sizes}"
            ) from exception


def _is_lack_of_memory(exception: BaseException) -> bool:
    return isinstance(exception, torch.OutOfMemoryError | MemoryError) or (
        isinstance(exception, RuntimeError) and "can't allocate memory" in str(exception)
    )


def _names(batch: Any) -> list[str]:
    """Of the clips or episodes."""
    names = batch["clips"] if isinstance(batch, Mapping) else [each["name"] for each in batch]
    return list(map(str, names))


def _save(batch: Any, path: Path) -> None:
    """Pictures or tokens as tensors, and what they are."""
    tensors = dict(_tensors(batch))
    with atomic_file(path) as unfinished:
        save_file(tensors, unfinished, {"clips": json.dumps(_names(batch))})


def _tensors(batch: Any) -> Iterable[tuple[str, Tensor]]:
    if isinstance(batch, Mapping):
        yield "frames", batch["frames"].cpu().contiguous()
        return
    for episode in batch:
        for kind in ("streams", "tokens"):
            for stream, tensor in episode[kind].items():
                yield f"{episode['name']}.{kind}.{stream}", tensor.cpu().contiguous()
