"""Stage 2 of the paper, interface alignment: teach a modality to speak like video.

LoRA in the vision encoder is trained on frames of the new modality alone, unpaired and without
text, so that attention responses and token statistics match the guidance (section 3.2, eq. 4-9).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from typing_extensions import override

from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.attention import AttentionCall, listen
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.guidance import InterfaceGuidance
from vlynx_pl.losses import attention_response_loss, token_statistics_loss


@dataclass(frozen=True)
class Encoded:
    """Tokens of a batch and how far each layer's attention is from the guidance."""

    tokens: Tensor  # (B, T, N, D)
    attention_gaps: Tensor  # (L,) float32


class InterfaceAlignment(AdapterTraining):
    """Trains one modality's vision adapter against the video guidance.

    The defaults are the released recipe; ``queries="all"`` and ``response="context"`` measure
    where the paper's eq. 4 and 5 do. Distances are means over layers and elements in both, so that
    β keeps its meaning (eq. 6 is written as a sum), and un-squared norms (eq. 8 is called squared).

    Args:
        backbone: the frozen Video LLM; the adapter is added to it here.
        modality: name of the adapter, such as ``3d``.
        rank: LoRA r of the vision adapter.
        alpha: LoRA scale numerator.
        dropout: LoRA dropout.
        stat_weight: β, weight of the token statistics loss (eq. 9).
        attn_weight: weight of the attention response loss.
        queries: compare every second row and column of patches, or all of them.
        response: compare after or before the attention's output projection.
        detach_reference: stop the gradient through the reference response.
        include_newline: count the newline token in the token statistics, as the released code does.
        learning_rate: peak of AdamW's learning rate.
        warmup: share of all steps with a linearly rising rate, before a cosine to zero.
    """

    reference_keys: Tensor  # (L, h, S, d)
    reference_values: Tensor  # (L, h, S, d)
    reference_token_mean: Tensor  # (D,)
    reference_token_var: Tensor  # (D,)

    def __init__(
        self,
        backbone: VideoBackbone,
        modality: str,
        rank: int = 64,
        alpha: int = 128,
        dropout: float = 0.05,
        stat_weight: float = 0.01,
        attn_weight: float = 1.0,
        queries: Literal["pooled", "all"] = "pooled",
        response: Literal["projected", "context"] = "projected",
        detach_reference: bool = False,
        include_newline: bool = False,
        learning_rate: float = 2e-5,
        warmup: float = 0.03,
    ) -> None:
        super().__init__(backbone, learning_rate, warmup)
        self.modality = modality
        self.stat_weight, self.attn_weight = stat_weight, attn_weight
        self.queries, self.response = queries, response
        self.detach_reference, self.include_newline = detach_reference, include_newline
        backbone.add_vision_adapter(modality, rank, alpha, dropout)
        self.train()
        self._guidance: InterfaceGuidance | None = None

    @override
    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        return {f"vision-{self.modality}": (self.backbone.vision_adapters, self.modality)}

    def use_guidance(self, guidance: InterfaceGuidance) -> None:
        """Align to ``guidance`` from now on."""
        self._guidance = guidance
        for name in ("keys", "values", "token_mean", "token_var"):
            tensor = getattr(guidance, name).to(self.device)
            self.register_buffer(f"reference_{name}", tensor, persistent=False)

    @property
    def guidance(self) -> InterfaceGuidance:
        """The guidance that is aligned to.

        Raises:
            RuntimeError: none was given yet.
        """
        if self._guidance is None:
            raise RuntimeError(
                "no guidance yet: add the ReferenceGuidance callback to the trainer, or call "
                "use_guidance(estimate_guidance(backbone, batches))"
            )
        return self._guidance

    def encode(self, frames: Tensor, adapter: str | None) -> Encoded:
        """Encode frames (B, T, 3, H, W) and measure every layer's attention gap on the way.

        Raises:
            RuntimeError: no guidance was given yet.
        """
        _ = self.guidance  # raises when there is none
        positions = self._query_positions(frames.device)
        layers = self.backbone.attention_layers()
        gaps: list[Tensor] = []

        def compare(call: AttentionCall) -> None:
            project = None
            answer = call.context
            if self.response == "projected":
                project, answer = self.backbone.output_projection(layers[call.layer]), call.output
            gaps.append(
                attention_response_loss(
                    call.query[:, :, positions],
                    answer[:, positions],
                    self.reference_keys[call.layer],
                    self.reference_values[call.layer],
                    project,
                    self.detach_reference,
                )
            )

        with listen(layers, compare):
            tokens = self.backbone.encode(frames, adapter)
        return Encoded(tokens, torch.stack(gaps))

    def _query_positions(self, device: torch.device) -> Tensor:
        rows, columns = self.backbone.patch_grid
        index = torch.arange(rows * columns, device=device).view(rows, columns)
        step = 2 if self.queries == "pooled" else 1
        return index[::step, ::step].flatten()

    def losses(self, frames: Tensor) -> dict[str, Tensor]:
        """The two losses and their weighted sum on modality frames (B, T, 3, H, W) (eq. 9)."""
        encoded = self.encode(frames, self.modality)
        rows = self.backbone.token_rows(encoded.tokens, self.include_newline)
        attn = encoded.attention_gaps.mean()
        stat = token_statistics_loss(rows, self.reference_token_mean, self.reference_token_var)
        return {
            "attn": attn,
            "stat": stat,
            "total": self.attn_weight * attn + self.stat_weight * stat,
        }

    @override
    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        losses = self.losses(batch["frames"])
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, prog_bar=True)
        return losses["total"]

    @override
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        frames = batch["frames"]
        losses = self.losses(frames)
        self.log_dict(
            {f"val/{name}": loss for name, loss in losses.items()},
            batch_size=len(frames),
            sync_dist=True,
        )
