"""A modality: which recordings exist, how they become frames, and which streams an episode has.

It knows nothing about Lightning or loaders.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from datamodules.samples import Clip, Episode, Split, Streams
from vlynx_pl.io.errors import UserError


class FrameSpec(NamedTuple):
    """How many frames of a recording are read, and their size."""

    frames: int  # timestamps
    size: tuple[int, int]  # (H, W) in pixels


@dataclass(frozen=True, kw_only=True)
class Modality(ABC):
    """A kind of signal that is rendered as frames: a frozen dataclass, its fields the settings.

    A modality defines its own type of *source*: a recording that can be pickled, with a ``name``
    and a ``path``. Alignment needs ``find``, ``clips`` and ``reference_clips``; ``locate`` adds
    benchmarks, ``streams`` adds tuning, and ``streams_from`` adds ``vlynx ask``.

    Args:
        root: folder of its recordings; None is that of the data module.
        frames: timestamps per recording; None is the number of the data module.
    """

    name: ClassVar[str]
    """The name of the stream, and of the adapter that encodes it."""
    small_folder: ClassVar[int] = 0
    """Up to this number of recordings, all are read before fitting, to name every bad one."""

    root: str | Path | None = None
    frames: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that its frames depend on, besides those of the data module."""
        own = (field.name for field in fields(self) if field.init and field.name != "root")
        return {name: getattr(self, name) for name in own}

    @property
    def rendering_settings(self) -> dict[str, Any]:
        """The settings that alignment and tuning must have in common.

        They say how a frame is rendered, not how many frames there are or which.
        """
        return {name: value for name, value in self.settings.items() if name != "frames"}

    @property
    def frames_per_timestamp(self) -> int:
        """Frames of the modality at each timestamp."""
        return 1

    def clip_frames(self, spec: FrameSpec) -> int:
        """Frames of a clip in alignment, at most."""
        return spec.frames * self.frames_per_timestamp

    @abstractmethod
    def find(self, root: Path) -> Mapping[Split, list[Any]]:
        """Sources of each split of a folder without annotations; files are not read.

        No recording may be in two splits; see :func:`datamodules.splits.hold_out`.
        """

    @abstractmethod
    def clips(self, source: Any, spec: FrameSpec) -> list[Clip]:
        """Clips of the modality's frames, for alignment; they read their files on demand."""

    @abstractmethod
    def reference_clips(self, source: Any, spec: FrameSpec) -> list[Clip]:
        """Clips of the source's plain RGB video, for the guidance."""

    def locate(self, root: Path, episode: Episode) -> Any:
        """The source of an episode in a folder; raises BadSample if it is missing."""
        raise UserError(f"{type(self).__name__} has no benchmarks; leave data.benchmark out")

    def streams(self, source: Any, spec: FrameSpec) -> Streams:
        """The video and the modality of a source, for an episode."""
        raise UserError(f"{type(self).__name__} has no episodes, so it cannot be used for tuning")

    def streams_from(self, files: Mapping[str, Path], spec: FrameSpec, wanted: bool) -> Streams:
        """The video of files that a user names, and the modality if it is ``wanted``.

        Args:
            files: ``video``, ``audio``, ``depth`` (the folder of a scene) or ``ego`` → path; those
                that are not needed are ignored.
            spec: the frames of the streams.
            wanted: whether the modality is read, or only the video.

        Raises:
            KeyError: a file that is needed is not given.
            BadSample: a file cannot be used.
        """
        raise UserError(f"{type(self).__name__} cannot read files that a user names")

    def check_batches(self, batch_size: int) -> None:  # noqa: B027
        """Raise UserError if clips would differ in length, so that they cannot be batched."""

    def report(self) -> dict[str, list[str]]:
        """What was left out of usable sources, each with its reason."""
        return {}

    def doubts(self, thorough: bool = False) -> list[str]:
        """Messages about sources opened so far that are readable but probably wrong.

        Args:
            thorough: look at all of them, not only at a few.
        """
        return []


@dataclass(frozen=True)
class Modalities:
    """The modalities of one clip. The first provides the video; each has its own timestamps.

    Args:
        each: in the order of the streams.
        root: folder of the modalities without their own.
        spec: frames of the modalities without their own.

    Raises:
        UserError: there is none, or two have the same name.
    """

    each: tuple[Modality, ...]
    root: Path
    spec: FrameSpec

    def __post_init__(self) -> None:
        if not self.each:
            raise UserError(
                "data names no modality; add --config experiments/align/<modality>.yaml, or give "
                "data.modalities"
            )
        names = [one.name for one in self.each]
        if len({"video", *names}) <= len(names):
            raise UserError(
                f"two modalities have the same name ({', '.join(names)}), or one is called video"
            )
        for one in self.each:
            if one.frames is not None and one.frames < 1:
                raise UserError(f"frames={one.frames} of {one.name} must be 1 or more")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Everything that the frames depend on, for the record of a run; numbers and names."""
        kinds = [(type(one), one.settings) for one in self.each]
        return {
            "frames": self.spec.frames,
            "frame_size": list(self.spec.size),
            "modalities": [[f"{k.__module__}.{k.__qualname__}", made] for k, made in kinds],
        }

    @property
    def rendering_settings(self) -> dict[str, Any]:
        """Modality → :attr:`Modality.rendering_settings`."""
        return {one.name: one.rendering_settings for one in self.each}

    def root_of(self, modality: Modality) -> Path:
        """The folder of a modality's recordings."""
        return self.root if modality.root is None else Path(modality.root)

    def spec_of(self, modality: Modality) -> FrameSpec:
        """The frames of a modality."""
        return self.spec._replace(frames=modality.frames or self.spec.frames)

    def streams(self, episode: Episode) -> Streams:
        """The video and all modalities of an episode; raises BadSample if one is missing."""
        return _joined(
            one.streams(one.locate(self.root_of(one), episode), self.spec_of(one))
            for one in self.each
        )

    def streams_from(self, files: Mapping[str, Path], names: Collection[str]) -> Streams:
        """The video and the named modalities of files, see :meth:`Modality.streams_from`."""
        return _joined(
            one.streams_from(files, self.spec_of(one), one.name in names)
            for number, one in enumerate(self.each)
            if number == 0 or one.name in names
        )

    def report(self) -> dict[str, list[str]]:
        """What the modalities left out, each with its reason."""
        return {what: lines for one in self.each for what, lines in one.report().items()}

    def doubts(self, thorough: bool = False) -> list[str]:
        """What is probably wrong, see :meth:`Modality.doubts`."""
        return [doubt for one in self.each for doubt in one.doubts(thorough)]


def _joined(streams: Iterable[Streams]) -> Streams:
    return reduce(lambda joined, other: joined.join(other), streams)
