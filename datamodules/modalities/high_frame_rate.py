"""High frame rate as a modality: four fast frames are tiled into one."""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from torch import Tensor
from typing_extensions import override

from datamodules.media.sampling import Rate, Uniform
from datamodules.media.video import Recording, Request
from datamodules.modalities.modality import FrameSpec
from datamodules.modalities.video import VideoModality, VideoSource, decode
from datamodules.samples import BadSample, Frames
from datamodules.signals.tiling import tiling

_TILES: Final = 4  # fast frames in a tiled frame


@dataclass(frozen=True, kw_only=True)
class HighFrameRate(VideoModality):
    """Four times as many frames as the RGB stream, tiled 2 × 2 in reading order.

    The timestamp of a tiled frame is that of its first fast frame.
    """

    name: ClassVar[str] = "highfps"

    @property
    @override
    def rendering_settings(self) -> dict[str, Any]:
        return {}

    @override
    def request(self, spec: FrameSpec) -> Request:
        sampling, (height, width) = self.sampling(spec), spec.size
        half = (height // 2, width // 2)  # frames are resized once, when they are decoded
        if isinstance(sampling, Uniform):
            return Request(Uniform(_TILES * sampling.frames), half)
        assert isinstance(sampling, Rate)
        most = None if sampling.max_frames is None else _TILES * sampling.max_frames
        return Request(Rate(_TILES * sampling.fps, most), half)

    @override
    def render(
        self, source: VideoSource, recording: Recording, frames: Frames, size: tuple[int, int]
    ) -> Frames:
        whole = len(frames.pixels) // _TILES * _TILES
        if not whole:
            raise BadSample(
                source.path,
                f"has {len(frames.pixels)} fast frames, and a tiled frame needs four",
                "Leave it out, or raise data.fps",
                "too short",
            )
        return Frames(tiling(frames.pixels[:whole], size), frames.times[:whole:_TILES])

    @override
    def read(self, source: VideoSource, spec: FrameSpec) -> Tensor:
        recording = decode(source, [self.request(spec)])
        return self.render(source, recording, recording.streams[0], spec.size).pixels
