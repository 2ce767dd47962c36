"""Modalities that are drawn from video files, each of which is opened once for all its streams."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from torch import Tensor
from typing_extensions import override

from datamodules.media.audio import SOUND_SUFFIXES, read_sound
from datamodules.media.container import open_media, video_track
from datamodules.media.files import find_media, media_file
from datamodules.media.sampling import Rate, Sampling, Uniform
from datamodules.media.video import Recording, Request, read_video
from datamodules.modalities.modality import FrameSpec, Modality
from datamodules.samples import BadSample, Clip, Episode, Frames, Split, Streams
from datamodules.splits import hold_out
from vlynx_pl.io.errors import UserError

_FOLDER_FPS: Final = 3.0  # of MVBench's folders of images, the only ones that are
# Recordings of a folder that are read within seconds, so that a newcomer learns all at once.
_FEW: Final = 50


@dataclass(frozen=True)
class VideoSource:
    """A video or sound file, a folder of images, or a part of one."""

    name: str
    path: Path
    span: tuple[float, float] | None = None  # (start, end) in s
    folder_fps: float | None = None  # images per second, of a folder
    sound: Path | None = None  # of its own file, which begins with the video
    found: bool = False  # in a folder, rather than named by an annotation

    @property
    def files(self) -> tuple[Path, ...]:
        """What is opened."""
        if self.path.is_dir():
            return (self.path, *sorted(self.path.iterdir()))
        return (self.path,) if self.sound is None else (self.path, self.sound)


@dataclass(frozen=True, kw_only=True)
class VideoModality(Modality):
    """A modality of a video file: what to decode of it, and how to draw that.

    Without a benchmark, ``root`` is a folder of videos, at any depth, or has ``videos/`` in it.

    Args:
        fps: RGB frames per second, but no more than ``frames``; without it, always ``frames``,
            evenly spaced from the first to the last.
    """

    few: ClassVar[int] = _FEW
    hears: ClassVar[bool] = False
    """Whether it needs the sound track."""

    fps: float | None = None

    @abstractmethod
    def draw(
        self, source: VideoSource, recording: Recording, frames: Frames, size: tuple[int, int]
    ) -> Frames:
        """Frames of the modality.

        Args:
            source: for messages.
            recording: what was decoded, with its sound if the modality ``hears``.
            frames: those asked for by ``request``.
            size: (H, W) to draw in, where that can be any size.

        Raises:
            BadSample: the recording cannot be drawn.
        """

    @abstractmethod
    def read(self, source: VideoSource, spec: FrameSpec) -> Tensor:
        """The modality alone, uint8 (T, 3, h, w), for alignment; raises BadSample."""

    def sampling(self, spec: FrameSpec) -> Sampling:
        """Which RGB frames are read."""
        return Uniform(spec.frames) if self.fps is None else Rate(self.fps, spec.frames)

    def request(self, spec: FrameSpec) -> Request:
        """The frames to decode: the RGB frames, where a modality says nothing else."""
        return self._rgb(spec)

    def _rgb(self, spec: FrameSpec) -> Request:
        return Request(self.sampling(spec), spec.size)

    @override
    def find(self, root: Path) -> Mapping[Split, list[VideoSource]]:
        files = find_media(root, self.hears)
        train, val = hold_out([VideoSource(name, path, found=True) for name, path in files])
        return {"train": train, "val": val}

    @override
    def locate(self, root: Path, episode: Episode) -> VideoSource:
        role = "frames" if "frames" in episode.media else "video"
        name = episode.media.get(role, episode.name)
        sound = self.hears and role == "video"
        try:
            path = media_file(root, name, sound)
        except BadSample as bad:
            if bad.trouble != "missing" or role not in episode.elsewhere:
                raise
            try:
                path = media_file(root, episode.elsewhere[role], sound)
            except BadSample:
                raise bad from None  # it names where the annotation says it is
        rate = _FOLDER_FPS if role == "frames" else None
        return VideoSource(episode.name, path, episode.span, rate)

    @override
    def check_batches(self, batch_size: int) -> None:
        if self.fps is not None and batch_size > 1:
            raise UserError(
                f"data.fps={self.fps} gives clips of different lengths, which make no batch; set "
                "data.batch_size=1, or data.fps=null"
            )

    @override
    def clips(self, source: VideoSource, spec: FrameSpec) -> list[Clip]:
        return [Clip(source.name, partial(self.read, source, spec), source.files)]

    @override
    def reference_clips(self, source: VideoSource, spec: FrameSpec) -> list[Clip]:
        if self.hears and source.found and not has_video(source.path):
            return []  # a file of sound alone, with which nothing is wrong
        read = partial(read_rgb, source, self.sampling(spec), spec.size)
        return [Clip(source.name, read, source.files)]

    @override
    def streams(self, source: VideoSource, spec: FrameSpec) -> Streams:
        return VideoStreams(_Reading(source, self._rgb(spec), ((self, spec),)), source.files)

    @override
    def streams_from(self, files: Mapping[str, Path], spec: FrameSpec, wanted: bool) -> Streams:
        path = files["video"]
        sound = files.get("audio") if wanted and self.hears else None
        source = VideoSource(path.name, path, sound=sound)
        drawn = ((self, spec),) if wanted else ()
        return VideoStreams(_Reading(source, self._rgb(spec), drawn), source.files)


@dataclass(frozen=True)
class _Reading:
    """Reads RGB and modalities of one source, which is opened once."""

    source: VideoSource
    rgb: Request
    drawn: tuple[tuple[VideoModality, FrameSpec], ...]

    def __call__(self) -> dict[str, Frames]:
        """The streams; raises BadSample."""
        source, hears = self.source, any(modality.hears for modality, _ in self.drawn)
        heard = replace(source, path=source.sound or source.path)  # it is the sound that is wrong
        own = [(modality, spec, modality.request(spec)) for modality, spec in self.drawn]
        wanted = list(dict.fromkeys([self.rgb, *(request for *_, request in own)]))
        recording = decode(source, wanted, hears)
        frames = dict(zip(wanted, recording.streams, strict=True))
        streams = {"video": frames[self.rgb]}
        for modality, spec, request in own:
            blamed = heard if modality.hears else source
            drawn = modality.draw(blamed, recording, frames[request], spec.size)
            streams[modality.name] = drawn
        return streams


@dataclass(frozen=True)
class VideoStreams(Streams):
    """Streams of one file: beside others of the same, they share its opening."""

    read: _Reading

    @override
    def beside(self, other: Streams) -> Streams:
        if isinstance(other, VideoStreams) and other.read.source == self.read.source:
            drawn = self.read.drawn + other.read.drawn
            return replace(self, read=replace(self.read, drawn=drawn))
        return super().beside(other)


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
    recording = read_video(source.path, requests, source.span, own, source.folder_fps)
    if sound and source.sound is not None:
        recording = recording._replace(sound=read_sound(source.sound, source.span))
    return recording


def read_rgb(source: VideoSource, sampling: Sampling, size: tuple[int, int]) -> Tensor:
    """RGB frames, uint8 (T, 3, H, W); raises BadSample."""
    return decode(source, [Request(sampling, size)]).streams[0].pixels
