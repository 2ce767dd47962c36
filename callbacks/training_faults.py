"""Explains failures inside a training step, and names the clips of its batch."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import DistError
from torch.optim import Optimizer
from typing_extensions import override

from callbacks.trainer_access import expect_module, is_fast_dev_run, run_folder
from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.distributed import world_size
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_file


class TrainingFaults(Callback):
    """Stops before a gradient that is not finite reaches the adapter.

    Also explains out-of-memory errors, settings that Lightning refuses, and the end of another
    process of the run.

    Args:
        estimate: returns a sentence about the memory that a step needs.
    """

    def __init__(self, estimate: Callable[[], str] = str) -> None:
        self._begun, self._estimate = False, estimate
        self._batch: Any = None
        self._clips: list[str] = []  # since the last step

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = True

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch
        self._clips += _names(batch)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.precision == "16-mixed":
            return  # its scaler skips such steps
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        # DDP has averaged the gradients, so that all ranks stop together.
        if torch.nn.utils.get_total_norm(gradients).isfinite():
            self._clips = []
            return
        kept = "no file, since this is a fast_dev_run"
        if not is_fast_dev_run(trainer):
            name = f"not-finite-step-{trainer.global_step}-rank-{trainer.global_rank}.safetensors"
            _save(self._batch, path := run_folder(trainer) / name)
            kept = str(path)
        raise UserError(
            f"the gradient of step {trainer.global_step} is not finite, and the adapter was left "
            f"unchanged; it comes from {', '.join(self._clips)} on this rank, whose last batch is "
            f"kept in {kept}. Check these clips (vlynx check), or lower model.learning_rate or set "
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
        if _is_of_settings(exception, self._begun):
            raise UserError(
                f"these settings of the trainer, or of the environment, cannot be used: {exception}"
            ) from exception
        reason = str(exception).partition("\n")[0] or type(exception).__name__
        if _is_lack_of_memory(exception):
            raise UserError(
                f"out of memory at step {trainer.global_step} ({reason}). {self._sizes(pl_module)}"
            ) from exception
        if world_size() > 1 and _is_loss_of_a_rank(exception):
            raise UserError(
                f"another process of this run has ended or does not answer ({reason}); see what it "
                "said. Then run the same command again: a fit goes on from its last checkpoint"
            ) from exception

    def _sizes(self, pl_module: LightningModule) -> str:
        if self._batch is None:
            return "No step of training was under way; lower data.batch_size or data.frames"
        sizes = expect_module(pl_module, AdapterTraining).batch_memory_hint(self._batch)
        batch = f"The batch of {', '.join(_names(self._batch))} has {sizes}"
        return f"{batch}. {self._estimate()}".rstrip(" .")


def _is_of_settings(exception: BaseException, begun: bool) -> bool:
    """Whether a library refused its settings, as opposed to a bug in our code or a user's."""
    if isinstance(exception, UserError) or not isinstance(exception, Exception):
        return False
    *_, (frame, _) = walk_tb(exception.__traceback__)
    raised_in = str(frame.f_globals["__name__"])
    # Lightning's callbacks check some settings only when they first need them.
    before = ("lightning.", "torch.distributed.")
    return raised_in.startswith(("lightning.pytorch.callbacks.",) if begun else before)


def _is_lack_of_memory(exception: BaseException) -> bool:
    if isinstance(exception, torch.OutOfMemoryError | MemoryError):
        return True
    # From the CPU allocator, oneDNN and cuBLAS.
    said = ("can't allocate memory", "could not create a primitive", "CUBLAS_STATUS_ALLOC_FAILED")
    return _says(exception, *said)


def _is_loss_of_a_rank(exception: BaseException) -> bool:
    return isinstance(exception, DistError) or _says(exception, "gloo/transport", "NCCL error")


def _says(exception: BaseException, *texts: str) -> bool:
    return isinstance(exception, RuntimeError) and any(text in str(exception) for text in texts)


def _names(batch: Any) -> list[str]:
    names = batch["clips"] if isinstance(batch, Mapping) else [each["name"] for each in batch]
    return list(map(str, names))


def _save(batch: Any, path: Path) -> None:
    """Save the frames or tokens of a batch, and the names of its clips."""
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
