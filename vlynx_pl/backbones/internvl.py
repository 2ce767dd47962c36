"""InternVL2.5, 3 and 3.5: InternViT, pixel shuffle, two-layer projector, Qwen2 or Qwen3.

One sentence of the weights' training data is part of every prompt: the system message of the
template ``internvl2_5`` in github.com/OpenGVLab/InternVL, which all three generations were trained
with. Frames are labelled as in transformers' processor and in the authors' evaluation.
"""

from collections.abc import Iterator

from torch import Tensor, nn
from typing_extensions import override

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import CHATML, Block, Stream

_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态"
    "大语言模型。"
)


class InternVLBackbone(VideoBackbone):
    """``InternVLForConditionalGeneration`` of any size, in transformers' own layout."""

    chat = CHATML._replace(
        opening=f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n",
    )
    never_quantized = ("model.vision_tower", "model.multi_modal_projector", "lm_head")

    @property
    def vision_tower(self) -> nn.Module:
        return self.model.model.vision_tower

    @property
    def language_model(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def default_side(self) -> int:
        side: int = self.model.config.vision_config.image_size[0]
        return side

    @property
    def feature_size(self) -> int:
        return self.model.model.multi_modal_projector.linear_1.in_features

    @property
    def patch_grid(self) -> tuple[int, int]:
        side = self.side // self.model.config.vision_config.patch_size[0]
        return side, side

    @property
    def token_grid(self) -> tuple[int, int]:
        side = int(self.patch_grid[0] * self.model.config.downsample_ratio)
        return side, side

    @property
    @override
    def patch_places(self) -> Tensor:
        return 1 + super().patch_places  # the class token is first

    @property
    @override
    def positions(self) -> int:
        return 1 + super().positions

    @property
    @override
    def normalisation(self) -> tuple[list[float], list[float]]:
        if self.processor is None:
            return super().normalisation
        # Video processors of InternVL3.5 have other numbers (github.com/OpenGVLab/InternVL#1222).
        image = self.processor.image_processor
        return list(image.image_mean), list(image.image_std)

    def attention_layers(self) -> list[nn.Module]:
        return [layer.attention for layer in self.model.model.vision_tower.encoder.layer]

    def output_projection(self, layer: nn.Module) -> nn.Module:
        return layer.get_submodule("projection_layer")

    def _tokens(self, pixels: Tensor) -> Tensor:
        found = self.model.model.get_image_features(pixels.flatten(0, 1), return_dict=True)
        return found.pooler_output.unflatten(0, pixels.shape[:2])

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        given: list[Tensor] = []
        projector = self.model.model.multi_modal_projector
        listening = projector.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
        try:
            tokens = self._tokens(pixels)
        finally:
            listening.remove()
        return given[0].unflatten(0, pixels.shape[:2]), tokens

    def _layout(self, stream: Stream, index: int) -> Iterator[str | Block]:
        before = "\n" if index else ""
        for number, frame in enumerate(stream.frames(), 1):
            yield f"{before}Frame{number}: <img>"
            yield Block(frame, (0,))
            yield "</img>"
            before = "\n"

    def _visual_tensors(self) -> dict[str, Tensor]:
        projector = self.model.model.multi_modal_projector
        return self.vision_tower.state_dict(prefix="vision_tower.") | projector.state_dict(
            prefix="multi_modal_projector."
        )
