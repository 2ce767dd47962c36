"""All that is measured of a stream in one pass over its clips."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from torch import Tensor

from vlynx_pl.analysis.geometry import StreamGeometry
from vlynx_pl.analysis.layer_spread import LayerSpread
from vlynx_pl.analysis.samples import TokenSample
from vlynx_pl.attention import listen
from vlynx_pl.backbones.base import VideoBackbone

ROWS: Final = 2048
"""Tokens of a stream that are kept."""

_CLIPS: Final = 256  # mean tokens of clips that are kept


class StreamMeter:
    """Measures a stream of tokens at the LLM's input.

    Args:
        backbone: that encodes the stream.
    """

    def __init__(self, backbone: VideoBackbone) -> None:
        channels, self._backbone = backbone.hidden_size, backbone
        self.geometry = {level: StreamGeometry(channels) for level in ("tokens", "frames")}
        self.tokens, self.clips = TokenSample(channels, ROWS), TokenSample(channels, _CLIPS)
        self.spread = LayerSpread(backbone)
        self.num_clips = self.num_frames = 0
        for metric in (*self.geometry.values(), self.tokens, self.clips, self.spread):
            metric.to(backbone.device)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Measure what the vision layers do."""
        layers, positions = self._backbone.attention_layers(), self._backbone.positions
        with listen(layers, self.spread.update, positions):
            yield

    def update(self, clip: str, tokens: Tensor) -> None:
        """Add the tokens (U, N, W) of a clip; of Qwen3-VL's, those for the LLM's input count."""
        inputs = tokens[..., : self._backbone.hidden_size].float()
        self.geometry["tokens"].update(inputs.flatten(0, 1))
        self.geometry["frames"].update(inputs.mean(1))
        self.tokens.update(clip, inputs)
        self.clips.update(clip, inputs.mean((0, 1))[None, None])
        self.num_clips += 1
        self.num_frames += len(inputs)
