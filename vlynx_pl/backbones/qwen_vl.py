"""Qwen2.5-VL and Qwen3-VL: packed patches and M-RoPE, with windows or with deep features.

Their encoders take two consecutive frames at once. Each frame of a stream is given twice, as their
processors do with an image, so that frames are encoded independently in every family.
"""

from collections.abc import Iterator
from itertools import accumulate, product
from math import floor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel, ProcessorMixin
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from vlynx_pl.attention import PACKED_ATTENTION
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import CHATML, Block, Prompt, Stream, grid_positions


class QwenVLBackbone(VideoBackbone):
    """What both families share."""

    never_quantized = ("model.visual", "lm_head")
    axes = 3
    vision_attention = PACKED_ATTENTION

    @property
    def vision_tower(self) -> nn.Module:
        return self.model.model.visual

    @property
    def language_model(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def default_side(self) -> int:
        return 14 * self.side_multiple  # 196 tokens per frame, like LLaVA-OneVision

    @property
    def side_multiple(self) -> int:
        side: int = self._vision.patch_size * self._vision.spatial_merge_size
        return side

    @property
    def feature_size(self) -> int:
        return self.model.model.visual.merger.hidden_size

    @property
    def patch_grid(self) -> tuple[int, int]:
        side = self.side // self._vision.patch_size
        return side, side

    @property
    def token_grid(self) -> tuple[int, int]:
        side = self.side // self.side_multiple
        return side, side

    @property
    def patch_places(self) -> Tensor:
        (rows, columns), merge = self.token_grid, self._vision.spatial_merge_size
        unit = self._unit_order().argsort().view(rows, 1, columns, 1)
        within = torch.arange(merge**2).view(merge, 1, merge)
        return (merge**2 * unit + within).view(self.patch_grid)

    def attention_layers(self) -> list[nn.Module]:
        return [block.attn for block in self.model.model.visual.blocks]

    def output_projection(self, layer: nn.Module) -> nn.Module:
        return layer.get_submodule("proj")

    @property
    def _vision(self) -> Any:
        return self.model.config.vision_config

    def _unit_order(self) -> Tensor:
        """(N,) the units in the encoder's order; a unit is the patches of one token."""
        return torch.arange(self.tokens_per_frame)

    def _tokens(self, pixels: Tensor) -> Tensor:
        batch, frames = pixels.shape[:2]
        (rows, columns), vision = self.token_grid, self._vision
        merge, side, pair = vision.spatial_merge_size, vision.patch_size, vision.temporal_patch_size
        units = pixels.reshape(batch * frames, 3, rows, merge, side, columns, merge, side)
        patches = units.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        rows_of_patches = patches.expand(-1, -1, -1, -1, -1, -1, pair, -1, -1).flatten(0, 4)
        grid = torch.tensor([[batch * frames, *self.patch_grid]], device=pixels.device)
        packed = self._vision._attn_implementation == PACKED_ATTENTION
        given = self._given(batch * frames) if packed else {}
        read = self.model.model.visual(
            rows_of_patches.flatten(1), grid_thw=grid, return_dict=True, **given
        )
        deep = read.deepstack_features if self.deep_layers else ()
        tokens = torch.cat([read.pooler_output, *deep], -1)
        return tokens.view(batch, frames, self.tokens_per_frame, self.token_size)

    def _given(self, frames: int) -> dict[str, Any]:
        """What transformers would compute from ``grid_thw``, for which it waits for the GPU."""
        (rows, columns), merge = self.token_grid, self._vision.spatial_merge_size
        places = torch.cartesian_prod(*(torch.arange(side) for side in self.patch_grid))
        units = places.view(rows, merge, columns, merge, 2).transpose(1, 2).flatten(0, 3)
        return {
            "position_ids": units.repeat(frames, 1).to(self.device),
            "cu_seqlens": range(0, (frames + 1) * self.positions, self.positions),
            "max_seqlen": self.positions,
        }

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        given: list[Tensor] = []
        merger = self.model.model.visual.merger
        listening = merger.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
        try:
            tokens = self._tokens(pixels)
        finally:
            listening.remove()
        units = given[0].view(*tokens.shape[:-1], self.feature_size)
        return units[:, :, self._unit_order().argsort().to(units.device)], tokens

    def _positions(self, start: int, block: Block) -> tuple[Tensor, int]:
        positions = grid_positions(start, block.offsets, *self.token_grid)
        # transformers goes on after the greatest height and width, even if time reaches further.
        return positions, int(positions.max()) + 1

    def _visual_tensors(self) -> dict[str, Tensor]:
        tensors = self.vision_tower.state_dict()
        return {f"visual.{name}": tensor for name, tensor in tensors.items()}


class Qwen25VLBackbone(QwenVLBackbone):
    """``Qwen2_5_VLForConditionalGeneration``: most vision layers attend within windows."""

    chat = CHATML._replace(asking="")

    def attention_windows(self) -> list[Tensor | None]:
        patches = self._vision.spatial_merge_size**2
        windows = self._windows().sort().values.repeat_interleave(patches)
        full = self._vision.fullatt_block_indexes
        return [None if i in full else windows for i in range(self._vision.depth)]

    @property
    def _window_side(self) -> int:
        side: int = self._vision.window_size // self.side_multiple
        return side

    def _windows(self) -> Tensor:
        """(N,) the window of each unit, by rows."""
        row, column = (torch.arange(count) // self._window_side for count in self.token_grid)
        return (row[:, None] * (column[-1] + 1) + column).flatten()

    def _given(self, frames: int) -> dict[str, Any]:
        side, patches = self._window_side, self._vision.spatial_merge_size**2
        sides = [[min(side, n - i) for i in range(0, n, side)] for n in self.token_grid]
        lengths = [patches * height * width for height, width in product(*sides)]
        frame = self.tokens_per_frame * torch.arange(frames)
        return super()._given(frames) | {
            "window_index": (frame[:, None] + self._unit_order()).flatten().to(self.device),
            "cu_window_seqlens": [*accumulate(frames * lengths, initial=0)],
            "max_window_seqlen": max(lengths),
        }

    def _unit_order(self) -> Tensor:
        return self._windows().argsort(stable=True)

    def _layout(self, stream: Stream, index: int) -> Iterator[str | Block]:
        times = stream.times
        # A step must not be lost to rounding, as in 2.3 − 1.3 < 1.
        steps = [floor((time - times[0] + 1e-4) * self._vision.tokens_per_second) for time in times]
        yield "<|vision_start|>"
        yield Block(stream, steps or range(stream.grid[0]))
        yield "<|vision_end|>"


class Qwen3VLBackbone(QwenVLBackbone):
    """``Qwen3VLForConditionalGeneration``: times as text, and features for the first LLM layers."""

    chat = CHATML._replace(opening="<|im_start|>user\n", asking="")

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        processor: ProcessorMixin | None,
        side: int | None = None,
    ) -> None:
        super().__init__(name, model, processor, side)
        visual = self.model.model.visual
        # Where the learned positions of a frame's patches are interpolated.
        self._interpolation = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, *self.patch_grid]]),
            visual.num_grid_per_side,
            visual.interpolation_mode,
            visual.interpolation_align_corners,
            self._vision.spatial_merge_size,
        )

    def _given(self, frames: int) -> dict[str, Any]:
        indices, weights = (one.repeat(frames, 1).to(self.device) for one in self._interpolation)
        return super()._given(frames) | {"interp_indices": indices, "interp_weights": weights}

    @property
    def deep_layers(self) -> int:
        return len(self._vision.deepstack_visual_indexes)

    def _layout(self, stream: Stream, index: int) -> Iterator[str | Block]:
        frames = stream.frames()
        stamps = [f"<{time:.1f} seconds>" for time in stream.times] or [""] * len(frames)
        for stamp, frame in zip(stamps, frames, strict=True):
            yield f"{stamp}<|vision_start|>"
            yield Block(frame, (0,))
            yield "<|vision_end|>"

    def _deep_inputs(self, prompt: Prompt, padding: int) -> dict[str, Any]:
        if not prompt.deep.shape[1]:
            return {}
        visual = pad(prompt.visual, (0, padding))[None].to(self.device)
        return {"visual_pos_masks": visual, "deepstack_visual_embeds": list(prompt.deep)}
