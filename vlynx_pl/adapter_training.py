"""What both stages share: AdamW on the adapters alone, and checkpoints that hold nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from peft import PeftModel
from torch import nn
from transformers import get_cosine_schedule_with_warmup
from typing_extensions import override

from vlynx_pl.adapters import AdapterError
from vlynx_pl.backbones.base import VideoBackbone


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

    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        """Folder name → PEFT model and adapter name of everything that is trained."""
        raise NotImplementedError(f"{type(self).__name__} trains no adapter")

    def notes(self) -> dict[str, Any]:
        """What else is to be saved beside the adapters: plain numbers and names."""
        return {}

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW(
            self._trained().values(), lr=self.learning_rate, weight_decay=0.0
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_cosine_schedule_with_warmup(optimizer, round(self.warmup * steps), steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in self._trained()}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if wrong := sorted(self._trained().keys() ^ checkpoint["state_dict"].keys()):
            raise AdapterError(
                f"the checkpoint does not hold this run's adapter: {len(wrong)} tensors differ, "
                f"for example {wrong[0]}; resume with the backbone, rank and modality it was "
                "saved with"
            )

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
