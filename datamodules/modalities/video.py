"""Modalities of video files; a file is opened once for all its streams."""

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

_FOLDER_FPS: Final = 3.0  # of MVBench, the only benchmark with folders of images


@dataclass(frozen=True)
class VideoSource:
    """A video or sound file, or a folder of images, or a time span of one."""

    name: str
    path: Path
    span: tuple[float, float] | None = None  # (start, end) in s
    folder_fps: float | None = None  # images per second in a folder
    sound: Path | None = None  # a separate file that starts when the video does
    found: bool = False  # found in a folder, rather than named by an annotation

    @property
    def files(self) -> tuple[Path, ...]:
        if self.path.is_dir():
            return (self.path, *sorted(self.path.iterdir()))
        return (self.path,) if self.sound is None else (self.path, self.sound)


@dataclass(frozen=True, kw_only=True)
class VideoModality(Modality):
    """A modality of a video file: what to decode, and how to render it.

    Without a benchmark, ``root`` is a folder that holds videos at any depth, or that has a folder
    ``videos/``.

    Args:
        fps: RGB frames per second, up to ``frames``; by default there are always ``frames``, evenly
            spaced from the first to the last.
    """

    small_folder: ClassVar[int] = 50  # they are read within seconds
    needs_audio: ClassVar[bool] = False
    """Whether it needs the sound track."""

    fps: float | None = None

    @abstractmethod
    def render(
        self, source: VideoSource, recording: Recording, frames: Frames, size: tuple[int, int]
    ) -> Frames:
        """Return the frames of the modality.

        Args:
            source: for messages.
            recording: what was decoded, with its sound if the modality ``needs_audio``.
            frames: the result of ``request``.
            size: (H, W) of the result, if the modality can choose its size.

        Raises:
            BadSample: the recording cannot be rendered.
        """

    @abstractmethod
    def read(self, source: VideoSource, spec: FrameSpec) -> Tensor:
        """Return the modality's frames, uint8 (T, 3, h, w), for alignment; raises BadSample."""

    def sampling(self, spec: FrameSpec) -> Sampling:
        """Which RGB frames are read."""
        return Uniform(spec.frames) if self.fps is None else Rate(self.fps, spec.frames)

    def request(self, spec: FrameSpec) -> Request:
        """The frames to decode; by default the RGB frames."""
        return self._rgb(spec)

    def _rgb(self, spec: FrameSpec) -> Request:
        return Request(self.sampling(spec), spec.size)

    @override
    def find(self, root: Path) -> Mapping[Split, list[VideoSource]]:
        files = find_media(root, self.needs_audio)
        train, val = hold_out([VideoSource(name, path, found=True) for name, path in files])
        return {"train": train, "val": val}

    @override
    def locate(self, root: Path, episode: Episode) -> VideoSource:
        role = "frames" if "frames" in episode.media else "video"
        name = episode.media.get(role, episode.name)
        sound = self.needs_audio and role == "video"
        try:
            path = media_file(root, name, sound)
        except BadSample as bad:
            if bad.trouble != "missing":
                raise
            path = _elsewhere(root, episode.elsewhere.get(role, ()), sound, bad)
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
        if self.needs_audio and source.found and not has_video(source.path):
            return []  # a file with sound only, which is not an error
        read = partial(read_rgb, source, self.sampling(spec), spec.size)
        return [Clip(source.name, read, source.files)]

    @override
    def streams(self, source: VideoSource, spec: FrameSpec) -> Streams:
        return VideoStreams(_ReadStreams(source, self._rgb(spec), ((self, spec),)), source.files)

    @override
    def streams_from(self, files: Mapping[str, Path], spec: FrameSpec, wanted: bool) -> Streams:
        path = files["video"]
        sound = files.get("audio") if wanted and self.needs_audio else None
        source = VideoSource(path.name, path, sound=sound)
        rendered = ((self, spec),) if wanted else ()
        return VideoStreams(_ReadStreams(source, self._rgb(spec), rendered), source.files)


def _elsewhere(root: Path, names: Sequence[str], sound: bool, bad: BadSample) -> Path:
    """The first of further paths that exists; else raise ``bad``, which names the first path."""
    for name in names:
        try:
            return media_file(root, name, sound)
        except BadSample as other:
            if other.trouble != "missing":
                raise
    raise bad


@dataclass(frozen=True)
class _ReadStreams:
    """Reads the RGB stream and modalities of one source, which is opened once."""

    source: VideoSource
    rgb: Request
    rendered: tuple[tuple[VideoModality, FrameSpec], ...]

    def __call__(self) -> dict[str, Frames]:
        source, needs_audio = self.source, any(one.needs_audio for one, _ in self.rendered)
        sound = replace(source, path=source.sound or source.path)  # for messages about the sound
        requested = [(modality, spec, modality.request(spec)) for modality, spec in self.rendered]
        wanted = list(dict.fromkeys([self.rgb, *(request for *_, request in requested)]))
        recording = decode(source, wanted, needs_audio)
        frames = dict(zip(wanted, recording.streams, strict=True))
        streams = {"video": frames[self.rgb]}
        for modality, spec, request in requested:
            named = sound if modality.needs_audio else source
            streams[modality.name] = modality.render(named, recording, frames[request], spec.size)
        return streams


@dataclass(frozen=True)
class VideoStreams(Streams):
    """Streams of one file; all streams of the same file are read together."""

    read: _ReadStreams

    @override
    def join(self, other: Streams) -> Streams:
        if isinstance(other, VideoStreams) and other.read.source == self.read.source:
            rendered = self.read.rendered + other.read.rendered
            return replace(self, read=replace(self.read, rendered=rendered))
        return super().join(other)


def has_video(path: Path) -> bool:
    """Whether a file has video, rather than sound only; a damaged file may have."""
    if path.suffix.lower() in SOUND_SUFFIXES:
        return False
    try:
        with open_media(path) as file:
            return video_track(path, file) is not None
    except BadSample:
        return True  # reading it raises the reason


def decode(source: VideoSource, requests: Sequence[Request], sound: bool = False) -> Recording:
    """Decode everything that is requested of a source at once; raises BadSample."""
    own = sound and source.sound is None
    recording = read_video(source.path, requests, source.span, own, source.folder_fps)
    if sound and source.sound is not None:
        recording = recording._replace(sound=read_sound(source.sound, source.span))
    return recording


def read_rgb(source: VideoSource, sampling: Sampling, size: tuple[int, int]) -> Tensor:
    """RGB frames, uint8 (T, 3, H, W); raises BadSample."""
    return decode(source, [Request(sampling, size)]).streams[0].pixels
