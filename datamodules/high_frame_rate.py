"""High frame rate as a modality: the frames between the frames, four to a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from torch import Tensor
from typing_extensions import override

from datamodules.media.sampling import Rate, Sampling, Uniform
from datamodules.media.video import Recording, Request
from datamodules.samples import BadSample, Frames
from datamodules.signals.tiling import tiling
from datamodules.video import VideoDataModule, VideoSense, VideoSource, decode

_TILES: Final = 4  # fast frames a picture


@dataclass(frozen=True)
class FastLook(VideoSense):
    """Four times as many frames as the RGB stream has, tiled 2 × 2 in reading order.

    A picture's time is that of its first frame.
    """

    name: ClassVar[str] = "highfps"

    @override
    def request(self, sampling: Sampling, size: tuple[int, int]) -> Request:
        height, width = size
        half = (height // 2, width // 2)  # each frame is reduced once, as it is decoded
        if isinstance(sampling, Uniform):
            return Request(Uniform(_TILES * sampling.frames), half)
        assert isinstance(sampling, Rate)
        most = None if sampling.max_frames is None else _TILES * sampling.max_frames
        return Request(Rate(_TILES * sampling.fps, most), half)

    @override
    def draw(
        self, source: VideoSource, recording: Recording, frames: Frames, size: tuple[int, int]
    ) -> Frames:
        whole = len(frames.pictures) // _TILES * _TILES
        if not whole:
            raise BadSample(
                source.path,
                f"gives {len(frames.pictures)} fast frames, not four for one picture",
                "Leave it out, or raise data.fps",
                "too short",
            )
        return Frames(tiling(frames.pictures[:whole], size), frames.times[:whole:_TILES])

    @override
    def read(self, source: VideoSource, sampling: Sampling, size: tuple[int, int]) -> Tensor:
        recording = decode(source, [self.request(sampling, size)])
        return self.draw(source, recording, recording.streams[0], size).pictures


class HighFrameRateDataModule(VideoDataModule):
    """Fast frames of videos for alignment and tuning.

    Args:
        root: folder of the videos.
        settings: fps and what all modalities share, see VideoDataModule. ``frames`` counts
            pictures, of four fast frames each.
    """

    def __init__(self, root: str | Path, **settings: Any) -> None:
        super().__init__(root, [FastLook()], **settings)
