"""Audio as a modality: log-mel spectrograms around the timestamps of the video's frames."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from datamodules.media.audio import Sound, is_silent, read_sound
from datamodules.media.sampling import Rate, Sampling, Uniform
from datamodules.media.video import Recording
from datamodules.modalities.modality import FrameSpec
from datamodules.modalities.video import VideoModality, VideoSource
from datamodules.samples import BadSample, Frames
from datamodules.signals.log_mel import SAMPLE_RATE, Scale, log_mel


@dataclass(frozen=True, kw_only=True)
class Audio(VideoModality):
    """The sound track as spectrograms, each centred on the timestamp of an RGB frame.

    For alignment, files may have sound only; the videos are then in ``reference_root``.

    Args:
        window: length of a spectrogram in s.
        scale: of the brightness; ``fixed`` distinguishes loud from quiet, ``min-max`` is that of
            the released code; see :func:`datamodules.signals.log_mel.log_mel`.
        allow_silence: render silent tracks in black instead of raising BadSample.
    """

    name: ClassVar[str] = "audio"
    needs_audio: ClassVar[bool] = True

    window: float = 2.0
    scale: Scale = "fixed"
    allow_silence: bool = False

    @property
    @override
    def rendering_settings(self) -> dict[str, Any]:
        return {"window": self.window, "scale": self.scale}

    @override
    def render(
        self, source: VideoSource, recording: Recording, frames: Frames, size: tuple[int, int]
    ) -> Frames:
        assert recording.sound is not None
        return Frames(self._spectrograms(source, recording.sound, frames.times), frames.times)

    @override
    def read(self, source: VideoSource, spec: FrameSpec) -> Tensor:
        sound = read_sound(source.path, source.span)
        end = sound.start + len(sound.waveform) / SAMPLE_RATE
        return self._spectrograms(source, sound, timestamps(self.sampling(spec), sound.start, end))

    def _spectrograms(self, source: VideoSource, sound: Sound, times: tuple[float, ...]) -> Tensor:
        if not self.allow_silence and is_silent(sound):
            raise BadSample(
                source.path,
                "has a silent sound track",
                "Leave it out (data.on_bad_sample=skip), or set allow_silence=true",
                "silent",
            )
        try:
            since_start = [time - sound.start for time in times]
            return log_mel(sound.waveform, since_start, self.window, self.scale)
        except ValueError as error:
            raise BadSample(
                source.path,
                f"has sound for only a part of the video ({error})",
                "Leave it out, or cut the video to the part that has sound",
                "too short",
            ) from error


def timestamps(sampling: Sampling, start: float, end: float) -> tuple[float, ...]:
    """The timestamps of RGB frames from ``start`` to ``end`` in s, if only sound is read."""
    if isinstance(sampling, Rate):
        count = max(1, math.ceil((end - start) * sampling.fps))
        if sampling.max_frames is None or count <= sampling.max_frames:
            return tuple(start + i / sampling.fps for i in range(count))
        sampling = Uniform(sampling.max_frames)
    assert isinstance(sampling, Uniform)
    step = (end - start) / max(sampling.frames - 1, 1)
    return tuple(start + i * step for i in range(sampling.frames))
