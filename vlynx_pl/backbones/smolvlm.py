"""SmolVLM2: SigLIP tower, pixel shuffle, linear projector, Llama.

Prompts are those of transformers' processor, which says how many frames there are and when.
"""

from collections.abc import Iterator
from datetime import timedelta

from num2words import num2words
from torch import Tensor, nn

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Block, Chat, Stream


class SmolVLMBackbone(VideoBackbone):
    """``SmolVLMForConditionalGeneration`` of any size."""

    chat = Chat(
        opening="<|im_start|>User:",
        asking="\n\n",
        user="User: ",
        assistant="Assistant:",
        answer=" ",
        end="<end_of_utterance>\n",
        stop=("<end_of_utterance>",),
    )
    never_quantized = ("model.vision_model", "model.connector", "lm_head")

    @property
    def vision_tower(self) -> nn.Module:
        return self.model.model.vision_model

    @property
    def language_model(self) -> nn.Module:
        return self.model.model.text_model

    @property
    def default_side(self) -> int:
        side: int = self.model.config.vision_config.image_size
        return side

    @property
    def feature_size(self) -> int:
        return self.model.model.connector.modality_projection.proj.in_features

    @property
    def patch_grid(self) -> tuple[int, int]:
        side = self.side // self.model.config.vision_config.patch_size
        return side, side

    @property
    def token_grid(self) -> tuple[int, int]:
        side = self.patch_grid[0] // self.model.config.scale_factor
        return side, side

    def attention_layers(self) -> list[nn.Module]:
        return [layer.self_attn for layer in self.model.model.vision_model.encoder.layers]

    def output_projection(self, layer: nn.Module) -> nn.Module:
        return layer.get_submodule("out_proj")

    def _tokens(self, pixels: Tensor) -> Tensor:
        return self._features(pixels)[1]

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        # get_image_features would drop frames whose pixels are all 0, which it takes for padding.
        patches = self.model.model.vision_model(pixels.flatten(0, 1)).last_hidden_state
        connector = self.model.model.connector
        features = connector.pixel_shuffle(patches, connector.scale_factor)
        tokens = connector.modality_projection(features)
        return features.unflatten(0, pixels.shape[:2]), tokens.unflatten(0, pixels.shape[:2])

    def _layout(self, stream: Stream, index: int) -> Iterator[str | Block]:
        frames = stream.frames()
        stamps = [""] * len(frames)
        if stream.times:
            seconds = [int(time) for time in stream.times]
            stamps = [f"\nFrame from {time // 60:02}:{time % 60:02}:" for time in seconds]
            # The last time is the length, as in the processor if it does not know the video's.
            count, length = num2words(len(seconds)), timedelta(seconds=seconds[-1])
            yield "\n\n" if index else " "
            yield f"You are provided the following series of {count} frames "
            yield f"from a {length} [H:MM:SS] video.\n"
        for stamp, frame in zip(stamps, frames, strict=True):
            yield f"{stamp}<fake_token_around_image><global-img>"
            yield Block(frame, (0,))
            yield "<fake_token_around_image>"

    def _visual_tensors(self) -> dict[str, Tensor]:
        connector = self.model.model.connector
        return self.vision_tower.state_dict(prefix="vision_model.") | connector.state_dict(
            prefix="connector."
        )
