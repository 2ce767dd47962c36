"""LLaVA-OneVision: SigLIP tower, two-layer projector, 2× bilinear pooling, Qwen2 (paper's main)."""

from collections.abc import Iterator
from math import ceil

from torch import Tensor, nn

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import CHATML, Block, Stream


class LlavaOnevisionBackbone(VideoBackbone):
    """``LlavaOnevisionForConditionalGeneration`` of any size, the miniature included."""

    chat = CHATML
    float16 = True
    never_quantized = ("model.vision_tower", "model.multi_modal_projector", "lm_head")

    @property
    def vision_tower(self) -> nn.Module:
        return self.model.model.vision_tower

    @property
    def language_model(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def default_side(self) -> int:
        side: int = self.model.config.vision_config.image_size
        return side

    @property
    def feature_size(self) -> int:
        return self.model.model.multi_modal_projector.linear_1.in_features

    @property
    def patch_grid(self) -> tuple[int, int]:
        side = self.side // self.model.config.vision_config.patch_size
        return side, side

    @property
    def token_grid(self) -> tuple[int, int]:
        side = ceil(self.patch_grid[0] / 2)
        return side, side

    @property
    def newline(self) -> Tensor:
        return self.model.model.image_newline

    def attention_layers(self) -> list[nn.Module]:
        return [layer.self_attn for layer in self.model.model.vision_tower.encoder.layers]

    def output_projection(self, layer: nn.Module) -> nn.Module:
        return layer.get_submodule("out_proj")

    def _tokens(self, pixels: Tensor) -> Tensor:
        batch, frames = pixels.shape[:2]
        # transformers flattens the frames with view(), so they must be contiguous.
        features = self.model.model.get_video_features(pixels.contiguous(), return_dict=True)
        without_newline = features.pooler_output[:, :-1]
        return without_newline.reshape(batch, frames, self.tokens_per_frame, self.hidden_size)

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        given: list[Tensor] = []
        projector = self.model.model.multi_modal_projector
        listening = projector.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
        try:
            tokens = self._tokens(pixels)
        finally:
            listening.remove()
        features = self.model.model.apply_pooling(given[0])
        return features.reshape(*tokens.shape[:-1], self.feature_size), tokens

    def _layout(self, stream: Stream, index: int) -> Iterator[Block | Tensor]:
        yield Block(stream, range(stream.grid[0]))
        yield self.newline[None]

    def _visual_tensors(self) -> dict[str, Tensor]:
        parts = {
            "vision_tower": self.vision_tower,
            "multi_modal_projector": self.model.model.multi_modal_projector,
        }
        tensors = {
            f"{part}.{name}": tensor
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }
        return tensors | {"image_newline": self.newline}
