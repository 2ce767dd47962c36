"""Stage 1, interface alignment: teach a modality to speak like video.

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
from vlynx_pl.adapters import VISION_LORA, Lora
from vlynx_pl.attention import AttentionCall, listen
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.guidance import GuidanceError, InterfaceGuidance
from vlynx_pl.losses import attention_response_loss, mean_of_all, token_statistics_loss
from vlynx_pl.ranks import ranks, share_of_batch, total_over_ranks


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

    L_attn is least where attention answers alike whatever else is in the picture, as no video
    does: alone, it may leave nothing of what samples differ in. ``attn_floor`` keeps it from
    getting there, and L_stat does; experiments/paper compares what else was tried.

    Args:
        backbone: the frozen Video LLM; the adapter is added to it here.
        modality: name of the adapter, such as ``3d``.
        lora: the vision adapter.
        stat_weight: β, weight of the token statistics loss (eq. 9).
        attn_weight: weight of the attention response loss.
        queries: compare every second row and column of patches, or all of them.
        response: compare after or before the attention's output projection.
        detach_reference: stop the gradient through the reference response.
        attn_floor: a layer's gap costs nothing up to what RGB video itself has; nearer to the mean
            video than videos are is not nearer to video. ReferenceGuidance measures it.
        stat_scale: token statistics in the tokens' own units, or ``relative`` to the guidance's
            spread, so that β means the same for every backbone.
        include_newline: count the newline token in the token statistics, as the released code does.
        statistics: those of a step are of all ranks' ``batch`` together, so that the number of
            ranks changes nothing, or each ``rank``'s own, as released.
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
        lora: Lora = VISION_LORA,
        stat_weight: float = 0.01,
        attn_weight: float = 1.0,
        queries: Literal["pooled", "all"] = "pooled",
        response: Literal["projected", "context"] = "projected",
        detach_reference: bool = False,
        attn_floor: bool = False,
        stat_scale: Literal["absolute", "relative"] = "absolute",
        include_newline: bool = False,
        statistics: Literal["batch", "rank"] = "batch",
        learning_rate: float = 2e-5,
        warmup: float = 0.03,
    ) -> None:
        super().__init__(backbone, learning_rate, warmup)
        self.modality = modality
        self.stat_weight, self.attn_weight = stat_weight, attn_weight
        self.queries, self.response = queries, response
        self.detach_reference, self.include_newline = detach_reference, include_newline
        self.attn_floor, self.stat_scale, self.statistics = attn_floor, stat_scale, statistics
        backbone.add_vision_adapter(modality, lora)
        self.train()
        self._guidance: InterfaceGuidance | None = None
        self._aligned_to: str | None = None  # fingerprint, of a run that goes on
        self._floor: Tensor | None = None  # (L,)

    @override
    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        return {f"vision-{self.modality}": (self.backbone.vision_adapters, self.modality)}

    def use_guidance(self, guidance: InterfaceGuidance) -> None:
        """Align to ``guidance`` from now on.

        Raises:
            GuidanceError: the run that goes on here was aligned to another one.
        """
        if self._aligned_to not in {None, guidance.fingerprint}:
            raise GuidanceError(
                f"this run was aligned to guidance {self._aligned_to} until it was stopped, now it "
                f"is {guidance.fingerprint}; put the run's own guidance.safetensors back, or begin "
                "a new run in another folder"
            )
        self._guidance = guidance
        for name in ("keys", "values", "token_mean", "token_var"):
            tensor = getattr(guidance, name).to(self.device)
            self.register_buffer(f"reference_{name}", tensor, persistent=False)

    def use_attention_floor(self, gaps: Tensor) -> None:
        """Let a layer's gap (L,) cost nothing up to these, those of RGB video."""
        self._floor = gaps

    @override
    def sizes(self, batch: Mapping[str, Any]) -> str:
        clips, frames = batch["frames"].shape[:2]
        rows, columns = self.backbone.patch_grid
        return (
            f"{clips} clips of {frames} frames, {clips * frames * rows * columns} patches at once; "
            "lower data.batch_size (and give trainer.accumulate_grad_batches), data.frames, or "
            "share the batch between more GPUs with trainer.devices"
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["guidance"] = self.guidance.fingerprint

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._aligned_to = checkpoint["guidance"]

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

        Args:
            frames: of the modality, or RGB video.
            adapter: name of the vision adapter; None is the untouched base.

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

    def losses(self, frames: Tensor, count: int | None = None) -> dict[str, Tensor]:
        """The losses and their weighted sum on modality frames (B, T, 3, H, W) (eq. 9).

        Without a floor, ``attn`` is this rank's mean; all else is as ``statistics`` says, of the
        first ``count`` samples, all by default.

        Raises:
            RuntimeError: no guidance, or no wanted floor of attention gaps, was given yet.
        """
        if count == 0 and self.statistics == "rank":
            count = None  # nothing has no mean, and weighs nothing anyway
        total = total_over_ranks if self.statistics == "batch" and ranks() > 1 else None

        encoded = self.encode(frames, self.modality)
        gaps = encoded.attention_gaps
        if self.attn_floor:
            if self._floor is None:
                raise RuntimeError(
                    "no gaps of RGB video for attn_floor yet: add the ReferenceGuidance callback "
                    "to the trainer, or call use_attention_floor"
                )
            if total is not None:
                gaps = mean_of_all(gaps.expand(len(frames), -1)[:count], total)
            gaps = (gaps - self._floor.to(gaps)).relu()
        tokens = encoded.tokens[:count]
        statistics = self.reference_token_mean, self.reference_token_var
        rows = self.backbone.token_rows(tokens, self.include_newline)
        relative = self.stat_scale == "relative"
        stat = token_statistics_loss(rows, *statistics, total, relative)
        return self._weighted(gaps.mean(), stat)

    def _weighted(self, attn: Tensor, stat: Tensor) -> dict[str, Tensor]:
        total = self.attn_weight * attn + self.stat_weight * stat
        return {"attn": attn, "stat": stat, "total": total}

    def _losses_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of a rank's part of a batch, which may be empty: then a black frame stands in for it.

        It weighs nothing, but the other ranks wait for this one's gradients.
        """
        frames = batch["frames"]
        if count := len(frames):
            return self.losses(frames)
        return self.losses(frames.new_zeros(1, *frames.shape[1:]), count)

    @override
    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        losses = self._losses_of(batch)
        attn, stat = losses["attn"], losses["stat"]
        share = share_of_batch(len(batch["frames"]), self.device)
        apart = self.statistics == "rank"  # else all but plain gaps is of all ranks together
        if apart or not self.attn_floor:
            attn = share * attn
        losses = self._weighted(attn, share * stat if apart else stat)
        logged = {f"train/{name}": loss for name, loss in losses.items()}
        self.log_dict(logged, prog_bar=True, sync_dist=True, batch_size=1)
        return losses["total"]

    @override
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        for name, loss in self._losses_of(batch).items():
            self.log_mean(f"val/{name}", loss, len(batch["frames"]))
