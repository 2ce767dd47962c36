"""Stage 1, interface alignment (paper section 3.2, eq. 4-9).

LoRA in the vision encoder is trained on frames of the new modality only, unpaired and without text,
so that attention responses and token statistics match those of video, the guidance.
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from typing_extensions import override

from vlynx_pl.adapter_training import AdapterTraining, FrameChunk
from vlynx_pl.adapters import VISION_LORA, Lora
from vlynx_pl.attention import AttentionCall, listen
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.distributed import share_of_batch
from vlynx_pl.frame_chunks import in_chunks, joined
from vlynx_pl.guidance import GuidanceError, InterfaceGuidance
from vlynx_pl.objectives import AlignmentObjective, Encoded


class InterfaceAlignment(AdapterTraining):
    """Trains one modality's vision adapter against the video guidance.

    Args:
        backbone: the frozen Video LLM; the adapter is added to it.
        modality: name of the adapter, such as ``3d``.
        objective: what is minimised; null is AlignmentObjective with its defaults.
        lora: the vision adapter.
        learning_rate: peak of AdamW's learning rate.
        warmup: share of all steps with linear warmup, before a cosine decay to zero.
        frame_chunk: see :class:`AdapterTraining`.
    """

    reference_keys: Tensor  # (L, h, S, d)
    reference_values: Tensor  # (L, h, S, d)
    reference_token_mean: Tensor  # (W,)
    reference_token_var: Tensor  # (W,)

    def __init__(
        self,
        backbone: VideoBackbone,
        modality: str,
        objective: AlignmentObjective | None = None,
        lora: Lora = VISION_LORA,
        learning_rate: float = 2e-5,
        warmup: float = 0.03,
        frame_chunk: FrameChunk = "auto",
    ) -> None:
        super().__init__(backbone, learning_rate, warmup, frame_chunk)
        self.modality, self.objective = modality, objective or AlignmentObjective()
        backbone.add_vision_adapter(modality, lora)
        self.train()
        self._guidance: InterfaceGuidance | None = None
        self._aligned_to: str | None = None  # fingerprint, in a resumed run
        self._floor: Tensor | None = None  # (L,)

    @override
    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        return {f"vision-{self.modality}": (self.backbone.vision_adapters, self.modality)}

    def use_guidance(self, guidance: InterfaceGuidance) -> None:
        """Align to ``guidance`` from now on.

        Raises:
            GuidanceError: the resumed run was aligned to another one.
        """
        if self._aligned_to not in {None, guidance.fingerprint}:
            raise GuidanceError(
                f"this run was aligned to guidance {self._aligned_to} until it was stopped, now it "
                f"is {guidance.fingerprint}; restore the run's own guidance.safetensors, or start "
                "a new run in another folder"
            )
        self._guidance = guidance
        for name in ("keys", "values", "token_mean", "token_var"):
            tensor = getattr(guidance, name).to(self.device)
            self.register_buffer(f"reference_{name}", tensor, persistent=False)

    def use_attention_floor(self, gaps: Tensor) -> None:
        """Set the attention gaps (L,) of RGB video, up to which ``attn_floor`` costs nothing."""
        self._floor = gaps

    @override
    def batch_size(self, batch: Mapping[str, Any]) -> tuple[int, int]:
        clips, frames = batch["frames"].shape[:2]
        return clips, clips * frames * self.backbone.tokens_per_frame

    @override
    def encoded_with_gradients(self, batch: Mapping[str, Any]) -> list[int] | None:
        return [batch["frames"].shape[:2].numel()]

    @override
    def encode_one(self, frame: Tensor) -> object:
        return self.encode(frame, self.modality)

    @override
    def batch_memory_hint(self, batch: Mapping[str, Any]) -> str:
        clips, frames = batch["frames"].shape[:2]
        rows, columns = self.backbone.patch_grid
        at_once = min(clips * frames, self.backbone.frame_chunk or clips * frames)
        return (
            f"{clips} clips of {frames} frames, {at_once * rows * columns} patches at once; lower "
            "model.frame_chunk, data.batch_size (and give trainer.accumulate_grad_batches) or "
            "data.frames, or share the batch between more GPUs with trainer.devices"
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
        """The guidance in use.

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
        """Encode frames, and measure every layer's attention gap.

        Args:
            frames: (B, T, 3, H, W) of the modality, or of RGB video.
            adapter: name of the vision adapter; None is the untouched base.

        Returns:
            Tokens (B, T, N, W) and gaps (L,).

        Raises:
            RuntimeError: no guidance was given yet.
        """
        _ = self.guidance  # raises when there is none
        backbone, layers = self.backbone, self.backbone.attention_layers()
        positions = self.objective.positions(backbone.patch_places)
        visible = [
            None if window is None else (window[positions, None] == window).to(frames.device)
            for window in backbone.attention_windows()
        ]
        positions = positions.to(frames.device)

        def read(part: Tensor) -> tuple[Tensor, Tensor]:
            gaps: list[Tensor] = []

            def compare(call: AttentionCall) -> None:
                projection = self.backbone.output_projection(layers[call.layer])
                keys, values = self.reference_keys[call.layer], self.reference_values[call.layer]
                seen = visible[call.layer]
                gap = self.objective.attention_gap(call, positions, projection, keys, values, seen)
                gaps.append(gap)

            with listen(layers, compare, backbone.positions):
                tokens = self.backbone.encode(part, adapter)
            return tokens, torch.stack(gaps)

        chunks = in_chunks(read, frames, self.backbone.frames_at_once)
        tokens = joined([tokens for tokens, _ in chunks], frames)
        shares = [part.shape[:2].numel() / frames.shape[:2].numel() for part, _ in chunks]
        gaps = torch.stack([s * gaps for s, (_, gaps) in zip(shares, chunks, strict=True)])
        return Encoded(tokens, gaps.sum(0))

    def losses(self, frames: Tensor, share: float = 1.0) -> dict[str, Tensor]:
        """Compute the losses of the objective, and their ``total``.

        A process may have no part of a batch while the others wait for its gradients. A black frame
        of weight zero then takes its place.

        Args:
            frames: (B, T, 3, H, W), this process's part of a batch.
            share: weight of this process, see :meth:`AlignmentObjective.losses`.

        Raises:
            RuntimeError: no guidance, or no attention floor for ``attn_floor``, was given yet.
        """
        clips = len(frames)
        shown = frames if clips else frames.new_zeros(1, *frames.shape[1:])
        return self.objective.losses(
            self.backbone,
            self.encode(shown, self.modality),
            clips,
            self.reference_token_mean,
            self.reference_token_var,
            self._floor,
            share,
        )

    @override
    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        frames = batch["frames"]
        losses = self.losses(frames, share_of_batch(len(frames), self.device))
        logged = {f"train/{name}": loss for name, loss in losses.items()}
        self.log_dict(logged, prog_bar=True, sync_dist=True, batch_size=1)
        return losses["total"]

    @override
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        for name, loss in self.losses(batch["frames"]).items():
            self.log_mean(f"val/{name}", loss, len(batch["frames"]))
