"""A modality: which recordings exist, how one becomes frames, and which streams an episode has.

It is given what a data module is configured with and knows nothing of Lightning, loaders or splits.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from datamodules.samples import Clip, Episode, Split, Streams
from vlynx_pl.io.errors import UserError


class FrameSpec(NamedTuple):
    """Which frames are wanted of a recording."""

    frames: int  # timestamps
    size: tuple[int, int]  # (H, W) in pixels


@dataclass(frozen=True, kw_only=True)
class Modality(ABC):
    """A kind of signal that is drawn as frames: a frozen dataclass whose fields are its settings.

    What a *source* is, is up to the modality: something that can be pickled, with a ``name`` and a
    ``path``. ``find``, ``clips`` and ``reference_clips`` are what alignment takes; ``locate`` makes
    benchmarks known, ``streams`` adds tuning, and ``streams_from`` adds ``vlynx ask``.

    Args:
        root: folder of its recordings; None is the data module's.
        frames: timestamps of a recording; None is as many as the data module says.
    """

    name: ClassVar[str]
    """Of the stream, and of the adapter that reads it."""
    few: ClassVar[int] = 0
    """Up to how many recordings are all read before fitting, so that every bad one is named."""

    root: str | Path | None = None
    frames: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """All that its frames depend on, beside those of the data module; plain numbers, names."""
        own = (field.name for field in fields(self) if field.init and field.name != "root")
        return {name: getattr(self, name) for name in own}

    @property
    def drawing(self) -> dict[str, Any]:
        """The settings on which the stages must agree: how a frame is drawn, not which are."""
        return {name: value for name, value in self.settings.items() if name != "frames"}

    @abstractmethod
    def find(self, root: Path) -> Mapping[Split, list[Any]]:
        """Sources of each split in a folder, without annotations; unread.

        No recording is in two splits; see :func:`datamodules.splits.hold_out`.
        """

    @abstractmethod
    def clips(self, source: Any, spec: FrameSpec) -> list[Clip]:
        """Clips of the modality's frames, for alignment; files may be left unread."""

    @abstractmethod
    def reference_clips(self, source: Any, spec: FrameSpec) -> list[Clip]:
        """Clips of the source's plain RGB video, for the guidance; files may be left unread."""

    def locate(self, root: Path, episode: Episode) -> Any:
        """The source in a folder that an episode is about; raises BadSample if it is not there."""
        raise UserError(f"{type(self).__name__} knows no benchmarks; leave data.benchmark out")

    def streams(self, source: Any, spec: FrameSpec) -> Streams:
        """The video and the modality of a source, for an episode."""
        raise UserError(f"{type(self).__name__} has no episodes, so that it cannot be tuned on")

    def streams_from(self, files: Mapping[str, Path], spec: FrameSpec, wanted: bool) -> Streams:
        """The video of files that a user names, and the modality if it is ``wanted``.

        Args:
            files: ``video``, ``audio``, ``depth`` (the folder of a scene) or ``ego`` → path; those
                that are not needed are left alone.
            spec: the frames of the streams.
            wanted: whether the modality is read, or the video alone.

        Raises:
            KeyError: one that is needed is missing.
            BadSample: one cannot be used.
        """
        raise UserError(f"{type(self).__name__} reads no files that a user names")

    def check_batches(self, batch_size: int) -> None:  # noqa: B027
        """Raise UserError where so many clips would differ in length, and so make no batch."""

    def report(self) -> dict[str, list[str]]:
        """What was left out of sources that can be used, each with its reason."""
        return {}

    def doubts(self, thorough: bool = False) -> list[str]:
        """What of the sources met so far is readable and probably wrong all the same.

        Args:
            thorough: look at all of them, not only at a few.

        Returns:
            A message for each, with a remedy.
        """
        return []


@dataclass(frozen=True)
class Modalities:
    """The modalities of one clip: the video is that of the first, and each has its own timestamps.

    Args:
        each: in the order of the streams.
        root: folder of the modalities that name none.
        spec: frames of the modalities that name no number.

    Raises:
        UserError: there is none, or two have one name.
    """

    each: tuple[Modality, ...]
    root: Path
    spec: FrameSpec

    def __post_init__(self) -> None:
        """Check the names, which are those of the streams."""
        if not self.each:
            raise UserError(
                "data names no modality; add --config experiments/align/<modality>.yaml, or give "
                "data.modalities"
            )
        names = [one.name for one in self.each]
        if len({"video", *names}) <= len(names):
            raise UserError(
                f"two modalities have one name ({', '.join(names)}), or one is called video"
            )
        for one in self.each:
            if one.frames is not None and one.frames < 1:
                raise UserError(f"frames={one.frames} of {one.name} must be 1 or more")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How frames are made, to be stored beside results; plain numbers and names."""
        kinds = [(type(one), one.settings) for one in self.each]
        return {
            "frames": self.spec.frames,
            "frame_size": list(self.spec.size),
            "modalities": [[f"{k.__module__}.{k.__qualname__}", made] for k, made in kinds],
        }

    @property
    def drawing(self) -> dict[str, Any]:
        """Modality → the settings on which stages must agree."""
        return {one.name: one.drawing for one in self.each}

    def root_of(self, modality: Modality) -> Path:
        """The folder of its recordings."""
        return self.root if modality.root is None else Path(modality.root)

    def spec_of(self, modality: Modality) -> FrameSpec:
        """The frames that it draws."""
        return self.spec._replace(frames=modality.frames or self.spec.frames)

    def streams(self, episode: Episode) -> Streams:
        """The video and all modalities of an episode; raises BadSample if one is not there."""
        first, *others = (
            one.streams(one.locate(self.root_of(one), episode), self.spec_of(one))
            for one in self.each
        )
        return _joined(first, others)

    def streams_from(self, files: Mapping[str, Path], names: Collection[str]) -> Streams:
        """The video and the named modalities of files, see :meth:`Modality.streams_from`."""
        first, *others = self.each
        video = first.streams_from(files, self.spec_of(first), first.name in names)
        return _joined(
            video,
            [o.streams_from(files, self.spec_of(o), True) for o in others if o.name in names],
        )

    def report(self) -> dict[str, list[str]]:
        """What the modalities left out, each with its reason."""
        return {what: lines for one in self.each for what, lines in one.report().items()}

    def doubts(self, thorough: bool = False) -> list[str]:
        """What is probably wrong, see :meth:`Modality.doubts`."""
        return [doubt for one in self.each for doubt in one.doubts(thorough)]


def _joined(first: Streams, others: list[Streams]) -> Streams:
    for other in others:
        first = first.beside(other)
    return first
