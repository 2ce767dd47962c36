"""What both stages share: AdamW on the adapters alone, and checkpoints that hold nothing else."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftModel
from torch import Tensor, nn
from torchmetrics import MeanMetric
from transformers import get_cosine_schedule_with_warmup
from typing_extensions import override

from vlynx_pl.adapters import AdapterError, adapted_layers, save_adapter
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.io.errors import UserError


class AdapterTraining(LightningModule):
    """Trains whatever of a frozen backbone requires a gradient.

    Args:
        backbone: the frozen Video LLM.
        learning_rate: peak of AdamW's learning rate.
        warmup: share of all steps with a linearly rising rate, before a cosine to zero.
    """

    def __init__(self, backbone: VideoBackbone, learning_rate: float, warmup: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.learning_rate, self.warmup = learning_rate, warmup
        self.made_with: dict[str, Mapping[str, Any]] = {}
        """Modality → what its saved adapter was made with, where one was loaded."""
        # Checkpoints hold the adapters only; on_load_checkpoint checks that they are complete.
        self.strict_loading = False
        self._seed = torch.initial_seed()
        self._means = nn.ModuleDict()

    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        """Folder name → PEFT model and adapter name of every adapter that is trained."""
        raise NotImplementedError(f"{type(self).__name__} trains no adapter")

    def save_adapters(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        """Write everything that is trained into a folder, each part into one of its own.

        Args:
            folder: of the run's adapters.
            made_with: plain numbers and names, noted in each.
        """
        for name, (adapters, adapter) in self.trained_adapters().items():
            save_adapter(adapters, adapter, folder / name, made_with)

    def adapter_metadata(self) -> dict[str, Any]:
        """What else is to be saved beside the adapters: plain numbers and names."""
        return {}

    def batch_memory_hint(self, batch: Any) -> str:
        """What a batch asks of the memory, in numbers, and the settings that lower it."""
        raise NotImplementedError(f"{type(self).__name__} knows no batches")

    def resume_invariants(self) -> dict[str, Any]:
        """What a run that was stopped must find unchanged: plain numbers and names."""
        # What an adapter's tensors are multiplied by is not in them.
        scales = {
            folder: sorted({layer.scaling[name] for layer in adapted_layers(peft, name).values()})
            for folder, (peft, name) in self.trained_adapters().items()
        }
        return {"backbone": self.backbone.fingerprint, "scales": scales}

    @override
    def setup(self, stage: str) -> None:
        # DDP would send the frozen weights to all ranks at the start, and buffers at every step.
        everything = [*self.named_parameters(), *self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = [
            name for name, tensor in everything if not tensor.requires_grad
        ]

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout depends on these alone, so that a run which was stopped goes on as if it had not.
        place = (self._seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7]))

    def log_mean(self, name: str, value: Tensor, count: int) -> None:
        """Log the mean over all samples of a validation, of which ``value`` is that of ``count``.

        Lightning's own mean over ranks rounds their numbers of samples to whole averages.
        """
        if name not in self._means:
            self._means[name] = MeanMetric().to(self.device)
        mean = self._means[name]
        assert isinstance(mean, MeanMetric)
        mean.update(value, count)
        self.log(name, mean, batch_size=1, metric_attribute=f"_means.{name}")

    def learning_rates(self) -> list[tuple[nn.Module, float | None]]:
        """Parts with a peak learning rate of their own; None is ``learning_rate`` after all."""
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
                "trainer.max_epochs=-1 has no end, over which the learning rate could fall; give "
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
        checkpoint["invariants"] = self.resume_invariants()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if wrong := sorted(self._trained().keys() ^ checkpoint["state_dict"].keys()):
            raise AdapterError(
                f"the checkpoint does not hold this run's adapter: {len(wrong)} tensors differ, "
                f"for example {wrong[0]}; resume with the backbone, rank and modality it was "
                "saved with"
            )
        for what, now in self.resume_invariants().items():
            if (then := checkpoint["invariants"].get(what)) != now:
                raise AdapterError(
                    f"the checkpoint was saved with {what} {then}, this run has {now}; go on with "
                    "what it was begun with, or begin a new run in another folder"
                )
        self._seed = checkpoint["seed"]

    def _trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name: the adapters and nothing else."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


@contextmanager
def evaluating(module: LightningModule) -> Iterator[None]:
    """Eval mode for a while; afterwards every part is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
