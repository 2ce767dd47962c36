"""Modalities that are drawn from video files: sound, and the frames between the frames.

A file is opened once for its RGB stream and all its modalities.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from torch import Tensor
from typing_extensions import override

from datamodules.base import ModalityDataModule
from datamodules.media.audio import SOUND_SUFFIXES, read_sound
from datamodules.media.container import open_media, video_track
from datamodules.media.files import find_media, media_file
from datamodules.media.sampling import Rate, Sampling, Uniform
from datamodules.media.video import Recording, Request, read_video
from datamodules.samples import BadSample, Clip, Episode, Frames, Split, Streams
from datamodules.splits import hold_out
from vlynx_pl.errors import UserError

_PICTURE_FPS: Final = 3.0  # of MVBench's folders of pictures, the only ones that are
# Recordings of a folder that are read within seconds, so that a newcomer learns all at once.
_FEW: Final = 50


@dataclass(frozen=True)
class VideoSource:
    """A video or sound file, a folder of pictures, or a part of one."""

    name: str
    path: Path
    span: tuple[float, float] | None = None  # (start, end) in s
    picture_fps: float | None = None  # pictures a second, of a folder
    sound: Path | None = None  # of its own file, which begins with the video

    @property
    def files(self) -> tuple[Path, ...]:
        """What is opened."""
        if self.path.is_dir():
            return (self.path, *sorted(self.path.iterdir()))
        return (self.path,) if self.sound is None else (self.path, self.sound)


@dataclass(frozen=True)
class VideoSense(ABC):
    """A modality of a video file: what to decode of it, and how to draw that.

    A frozen dataclass whose fields are the settings.
    """

    name: ClassVar[str]
    """Of the stream, and of the adapter that reads it."""
    hears: ClassVar[bool] = False
    """Whether it needs the sound track."""

    @property
    def drawing(self) -> dict[str, Any]:
        """The settings that pictures depend on."""
        return asdict(self)

    def request(self, sampling: Sampling, size: tuple[int, int]) -> Request | None:
        """Frames to decode for pictures of ``size`` (H, W) beside RGB frames of ``sampling``."""
        return None

    @abstractmethod
    def draw(
        self, source: VideoSource, recording: Recording, frames: Frames, size: tuple[int, int]
    ) -> Frames:
        """Pictures of the modality.

        Args:
            source: for messages.
            recording: what was decoded, with its sound if the sense hears.
            frames: those asked for by ``request``, or else the RGB frames.
            size: (H, W) of the pictures, where they can be drawn in any size.

        Raises:
            BadSample: the recording cannot be drawn.
        """

    @abstractmethod
    def read(self, source: VideoSource, sampling: Sampling, size: tuple[int, int]) -> Tensor:
        """Pictures of the modality alone, uint8 (T, 3, h, w), for alignment; raises BadSample."""


class VideoDataModule(ModalityDataModule):
    """Modalities of video files, for alignment (one) or for tuning (several at once).

    Without a benchmark, ``root`` is a folder of videos, at any depth, or has ``videos/`` in it.

    Args:
        root: folder of the videos; a benchmark's names are looked up in it.
        senses: what is drawn of each video.
        fps: RGB frames a second, but no more than ``frames``; without it, always ``frames``, evenly
            spaced from the first to the last.
        settings: what all modalities share, see ModalityDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        senses: Sequence[VideoSense],
        *,
        fps: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        if self.objective == "alignment" and len(senses) != 1:
            raise UserError(f"alignment takes one modality at a time, not {len(senses)} senses")
        self.senses = tuple(senses)
        self.modalities = tuple(sense.name for sense in senses)
        if len({"video", *self.modalities}) <= len(senses):
            raise UserError(
                f"two senses have one name ({', '.join(self.modalities)}), or one is called video"
            )
        if fps is not None and self.objective == "alignment" and self.batch_size > 1:
            raise UserError(
                f"data.fps={fps} gives clips of different lengths, which make no batch; set "
                "data.batch_size=1, or data.fps=null"
            )
        self.fps = fps

    @property
    @override
    def preprocessing(self) -> dict[str, Any]:
        drawn = [[sense.name, asdict(sense)] for sense in self.senses]
        return super().preprocessing | {"fps": self.fps, "senses": drawn}

    @property
    @override
    def drawing(self) -> dict[str, Any]:
        return {sense.name: sense.drawing for sense in self.senses}

    @property
    def sampling(self) -> Sampling:
        """Which RGB frames are read."""
        return Uniform(self.frames) if self.fps is None else Rate(self.fps, self.frames)

    @override
    def find(self, root: Path) -> Mapping[Split, list[VideoSource]]:
        files = find_media(root, self._hears)
        train, val = hold_out([VideoSource(name, path) for name, path in files])
        return {"train": train, "val": val}

    @override
    def locate(self, root: Path, episode: Episode) -> VideoSource:
        role = "frames" if "frames" in episode.media else "video"
        name = episode.media.get(role, episode.name)
        sound = self._hears and role == "video"
        try:
            path = media_file(root, name, sound)
        except BadSample as bad:
            if bad.trouble != "missing" or role not in episode.elsewhere:
                raise
            try:
                path = media_file(root, episode.elsewhere[role], sound)
            except BadSample:
                raise bad from None  # it names where the annotation says it is
        rate = _PICTURE_FPS if role == "frames" else None
        return VideoSource(episode.name, path, episode.span, rate)

    @property
    @override
    def _few(self) -> int:
        return _FEW if self.benchmark is None else 0

    @property
    def _hears(self) -> bool:
        return any(sense.hears for sense in self.senses)

    @override
    def modality_clips(self, source: VideoSource) -> list[Clip]:
        [sense] = self.senses
        read = partial(sense.read, source, self.sampling, self.frame_size)
        return [Clip(source.name, read, source.files)]

    @override
    def reference_clips(self, source: VideoSource) -> list[Clip]:
        if self._hears and self.benchmark is None and not has_video(source.path):
            return []
        read = partial(read_rgb, source, self.sampling, self.frame_size)
        return [Clip(source.name, read, source.files)]

    @override
    def streams(self, source: VideoSource) -> Streams:
        return self._streams(source, self.senses)

    @override
    def streams_of(self, files: Mapping[str, Path], modalities: Collection[str]) -> Streams:
        senses = [sense for sense in self.senses if sense.name in modalities]
        path = files["video"]
        sound = files.get("audio") if any(sense.hears for sense in senses) else None
        return self._streams(VideoSource(path.name, path, sound=sound), senses)

    def _streams(self, source: VideoSource, senses: Sequence[VideoSense]) -> Streams:
        read = partial(read_streams, source, senses, self.sampling, self.frame_size)
        return Streams(read, source.files)


def has_video(path: Path) -> bool:
    """Whether a file shows something, rather than being sound alone; a damaged one may."""
    if path.suffix.lower() in SOUND_SUFFIXES:
        return False
    try:
        with open_media(path) as file:
            return video_track(path, file) is not None
    except BadSample:
        return True  # reading it says what is wrong


def decode(source: VideoSource, requests: Sequence[Request], sound: bool = False) -> Recording:
    """All that is asked of a source, from one opening; raises BadSample."""
    own = sound and source.sound is None
    recording = read_video(source.path, requests, source.span, own, source.picture_fps)
    if sound and source.sound is not None:
        recording = recording._replace(sound=read_sound(source.sound, source.span))
    return recording


def read_rgb(source: VideoSource, sampling: Sampling, size: tuple[int, int]) -> Tensor:
    """RGB frames, uint8 (T, 3, H, W); raises BadSample."""
    return decode(source, [Request(sampling, size)]).streams[0].pictures


def read_streams(
    source: VideoSource,
    senses: Sequence[VideoSense],
    sampling: Sampling,
    size: tuple[int, int],
) -> dict[str, Frames]:
    """RGB and all senses of one file that is opened once; raises BadSample."""
    heard = replace(source, path=source.sound or source.path)  # what is wrong with it is the sound
    wanted = [Request(sampling, size), *(sense.request(sampling, size) for sense in senses)]
    hears = any(sense.hears for sense in senses)
    recording = decode(source, [request for request in wanted if request], hears)
    decoded = iter(recording.streams)
    rgb, *own = [next(decoded) if request else None for request in wanted]
    assert rgb is not None
    streams = {"video": rgb}
    for sense, frames in zip(senses, own, strict=True):
        drawn = heard if sense.hears else source
        streams[sense.name] = sense.draw(drawn, recording, frames or rgb, size)
    return streams
