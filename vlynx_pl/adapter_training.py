"""Base of both stages: AdamW on the adapters only, and checkpoints that contain only these."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers import get_cosine_schedule_with_warmup
from typing_extensions import override

from vlynx_pl.adapters import AdapterError, adapted_layers, save_adapter
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.distributed import least_over_ranks
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.progress import say
from vlynx_pl.memory import TensorBytes, fitting, free_bytes

FrameChunk: TypeAlias = int | Literal["auto"] | None


class AdapterTraining(LightningModule):
    """Trains the parameters of a frozen backbone that require a gradient.

    Args:
        backbone: the frozen Video LLM.
        learning_rate: peak of AdamW's learning rate.
        warmup: share of all steps with linear warmup, before a cosine decay to zero.
        frame_chunk: maximum frames with gradients in the vision encoder at once, see
            :mod:`vlynx_pl.frame_chunks`; null is all of a batch. ``auto`` is also all of a batch,
            but if they need more than half of the memory that is free at the first step, as many
            as fit into that half.

    The first step of a session stops the run if a trained tensor received no gradient.

    Raises:
        UserError: ``frame_chunk`` is 0 or less.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        learning_rate: float,
        warmup: float,
        frame_chunk: FrameChunk = "auto",
    ) -> None:
        super().__init__()
        if isinstance(frame_chunk, int) and frame_chunk < 1:
            raise UserError(
                f"model.frame_chunk={frame_chunk} is not a number of frames; give 1 or more, "
                "auto, or null for all frames at once"
            )
        self._fitted, self._chunk_is_open = False, frame_chunk == "auto"
        self._gradients_are_checked = False
        backbone.frame_chunk = frame_chunk if isinstance(frame_chunk, int) else None
        self.backbone = backbone
        self.learning_rate, self.warmup = learning_rate, warmup
        self.made_with: dict[str, Mapping[str, Any]] = {}
        """Modality → ``made_with.json`` of its adapter, if one was loaded."""
        # Checkpoints contain the adapters only; on_load_checkpoint checks that they are complete.
        self.strict_loading = False
        self._seed = torch.initial_seed()
        self._means = nn.ModuleDict()

    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        """Folder name → PEFT model and adapter name of every trained adapter."""
        raise NotImplementedError

    def save_adapters(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        """Write everything that is trained, each part into a folder in ``folder``.

        Args:
            folder: of the run's adapters.
            made_with: plain data, saved with each.
        """
        for name, (adapters, adapter) in self.trained_adapters().items():
            save_adapter(adapters, adapter, folder / name, made_with)

    def adapter_metadata(self) -> dict[str, Any]:
        """Further plain data to be saved with the adapters."""
        return {}

    def batch_memory_hint(self, batch: Any) -> str:
        """Describe the size of a batch, and the settings that lower its memory."""
        raise NotImplementedError

    def batch_size(self, batch: Any) -> tuple[int, int]:
        """Return the clips of a batch, and the visual tokens that they become."""
        raise NotImplementedError

    def encoded_with_gradients(self, batch: Any) -> list[int] | None:
        """Return the frames of each call of the vision encoder; None if it is not trained."""
        return None

    def encode_one(self, frame: Tensor) -> object:
        """Encode a frame (1, 1, 3, H, W) with gradients, as a training step does."""
        raise NotImplementedError

    def resume_invariants(self) -> dict[str, Any]:
        """Plain data that must be equal when a run is resumed."""
        # The scale of an adapter is not part of its tensors.
        scales = {
            folder: sorted({layer.scaling[name] for layer in adapted_layers(peft, name).values()})
            for folder, (peft, name) in self.trained_adapters().items()
        }
        return {
            "backbone": self.backbone.fingerprint,
            "quantization": self.backbone.quantization,
            "scales": scales,
        }

    @override
    def setup(self, stage: str) -> None:
        # DDP would broadcast the frozen weights at the start, and buffers at every step.
        everything = [*self.named_parameters(), *self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = [
            name for name, tensor in everything if not tensor.requires_grad
        ]

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if not self._fitted:
            self.fit_to_memory(batch)
            self._fitted = True
        # Dropout depends on these only, so that a resumed run equals an uninterrupted one.
        place = (self._seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7]))

    def fit_to_memory(self, batch: Any, reserved: int = 0) -> None:
        """Choose the settings that are ``auto`` by the first batch and the free memory.

        Args:
            batch: this rank's part.
            reserved: bytes of the free memory that other activations will need.

        Raises:
            UserError: the vision encoder is trained, and not even one frame fits.
        """
        calls = self.encoded_with_gradients(batch)
        if calls is None or not self._chunk_is_open:
            return
        frame = torch.zeros(1, 1, 3, *self.backbone.frame_size, dtype=torch.uint8).to(self.device)
        each = self.kept_bytes(lambda: self.encode_one(frame))
        free = free_bytes(self.device) - reserved
        fits = least_over_ranks(fitting(free, self._trained_numbers(), each), self.device)
        if fits < 1:
            raise UserError(
                f"one frame keeps {each / 2**30:.2f} GiB for the backward pass, more than half of "
                f"the {free / 2**30:.2f} GiB that are free; use a smaller backbone or more memory, "
                "or try it nevertheless with model.frame_chunk=1"
            )
        if (every := sum(calls)) > fits:
            self.backbone.frame_chunk = max(1, fits // len(calls))
            say(
                f"model.frame_chunk is {self.backbone.frame_chunk} of the batch's {every} frames: "
                f"each keeps {each / 2**30:.2f} GiB for the backward pass, and "
                f"{free / 2**30:.1f} GiB are free"
            )

    def kept_bytes(self, forward: Callable[[], object]) -> int:
        """Return the bytes that autograd keeps of a forward pass, its results included."""
        before = (tensors := TensorBytes(self)).held
        with self.trainer.precision_plugin.forward_context(), tensors:
            _kept = forward()
            return tensors.held - before

    def _trained_numbers(self) -> int:
        return sum(parameter.numel() for parameter in self._trained().values())

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Raise UserError if a trained tensor received no gradient in the first step."""
        if self._gradients_are_checked:
            return
        self._gradients_are_checked = True
        trained = self._trained()
        # Zeros are normal: lora_B begins with zeros, and so do the gradients of lora_A.
        if lost := [name for name, parameter in trained.items() if parameter.grad is None]:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise UserError(
                f"{len(lost)} of {len(trained)} trained tensors received no gradient in the first "
                f"step and would never change: {', '.join(lost[:3])}{more}. The loss does not "
                "depend on them: model.objective or model.streams ignores their layers or runs "
                "them without gradients (torch.no_grad, detach), or the backbone does not read "
                "the output of their layers (see vision_feature_layer in its config.json). Let "
                "the loss depend on them, with weight 0 if need be, or use a backbone without "
                "these layers"
            )

    def log_mean(self, name: str, value: Tensor, count: int) -> None:
        """Log the mean over a validation's samples; ``value`` is the mean of ``count`` samples.

        Lightning's own mean over ranks ignores that they have different numbers of samples.
        """
        if name not in self._means:
            self._means[name] = MeanMetric().to(self.device)
        mean = self._means[name]
        assert isinstance(mean, MeanMetric)
        mean.update(value, count)
        self.log(name, mean, batch_size=1, metric_attribute=f"_means.{name}")

    def learning_rates(self) -> list[tuple[nn.Module, float | None]]:
        """Modules with their own peak learning rate; None means ``learning_rate``."""
        return []

    def _parameter_groups(self) -> list[dict[str, Any]]:
        rates = {
            parameter: rate
            for part, rate in self.learning_rates()
            for parameter in part.parameters()
            if rate is not None
        }
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in self._trained().values():
            groups.setdefault(rates.get(parameter, self.learning_rate), []).append(parameter)
        return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(self._parameter_groups(), weight_decay=0.0)
        if (steps := self.trainer.estimated_stepping_batches) == float("inf"):
            raise UserError(
                "trainer.max_epochs=-1 has no end for the learning rate to decay to; give "
                "--trainer.max_steps=N, or a number of epochs"
            )
        steps = int(steps)
        schedule = get_cosine_schedule_with_warmup(optimizer, round(self.warmup * steps), steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in self._trained()}
        checkpoint["seed"] = self._seed
        # Dropout depends on the chunks.
        checkpoint["frame_chunk"] = self.backbone.frame_chunk
        checkpoint["invariants"] = self.resume_invariants()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if wrong := sorted(self._trained().keys() ^ checkpoint["state_dict"].keys()):
            raise AdapterError(
                f"the checkpoint does not contain this run's adapter: {len(wrong)} tensors differ, "
                f"for example {wrong[0]}; resume with the backbone, rank and modality it was "
                "saved with"
            )
        for what, now in self.resume_invariants().items():
            if (then := checkpoint["invariants"].get(what)) != now:
                raise AdapterError(
                    f"the checkpoint was saved with {what} {then}, this run has {now}; resume with "
                    "the same settings, or start a new run in another folder"
                )
        self._seed = checkpoint["seed"]
        self.backbone.frame_chunk, self._chunk_is_open = checkpoint["frame_chunk"], False

    def _trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


@contextmanager
def evaluating(module: LightningModule) -> Iterator[None]:
    """Switch to eval mode; afterwards restore the mode of every part."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
