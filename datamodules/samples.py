"""What is read from files and given to the model, and the one error for a bad file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

from torch import Tensor

from vlynx_pl.io.errors import UserError
from vlynx_pl.questions import Question as Question  # noqa: PLC0414 (re-exported)

Split = Literal["train", "val", "test"]
Trouble = Literal[
    "missing", "unreadable", "no audio", "silent", "antiphase", "too short", "question"
]


class BadSample(UserError):  # noqa: N818
    """A file or folder that cannot be used.

    Args:
        path: the file or folder.
        reason: what is wrong with it.
        remedy: what to do about it.
        trouble: the kind of reason, by which ``vlynx check`` counts.
    """

    # All but the path have defaults, since a DataLoader rebuilds a worker's error from its text.
    def __init__(
        self,
        path: Path | str,
        reason: str = "",
        remedy: str = "",
        trouble: Trouble = "unreadable",
    ) -> None:
        super().__init__(path, reason, remedy, trouble)
        self.path, self.reason, self.remedy, self.trouble = path, reason, remedy, trouble

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}. {self.remedy}" if self.reason else str(self.path)


@dataclass(frozen=True)
class Clip:
    """Frames that are read together, on demand.

    Args:
        name: the recording and its frames, such as ``scene0000_00/0,20,40``.
        read: returns uint8 (T, 3, h, w), or raises BadSample.
        files: the files that ``read`` opens; when one of them changes, so do the frames.
    """

    name: str
    read: Callable[[], Tensor]
    files: tuple[Path, ...] = ()


class Frames(NamedTuple):
    """A visual stream with its timestamps."""

    pixels: Tensor  # uint8 (T, 3, h, w)
    times: tuple[float, ...]  # U timestamps in s, of T / U frames each: their tokens are averaged


@dataclass(frozen=True)
class Streams:
    """The visual streams of an episode, read together, on demand.

    Args:
        read: returns name → frames, ``video`` first, then the modalities; or raises BadSample.
        files: the files that ``read`` opens.
    """

    read: Callable[[], dict[str, Frames]]
    files: tuple[Path, ...] = ()

    def join(self, other: "Streams") -> "Streams":
        """The streams of both; where both have one of the same name, that of this object."""
        return Streams(partial(_read_both, self.read, other.read), self.files + other.files)


def _read_both(
    one: Callable[[], dict[str, Frames]], other: Callable[[], dict[str, Frames]]
) -> dict[str, Frames]:
    first = one()
    return first | {name: frames for name, frames in other().items() if name not in first}


class FrameBatch(TypedDict):
    """A batch for alignment or guidance: frames without text."""

    frames: Tensor  # uint8 (B, T, 3, H, W)
    clips: list[str]  # B names of scene and frames


@dataclass(frozen=True)
class Episode:
    """A clip and all its questions, as annotation files give them; its media are not opened.

    Args:
        name: of the clip, unique within a benchmark's split.
        media: role → path in the data root, as the benchmark names it, such as
            ``{"video": "AB12C.mp4"}``, ``{"scene": "scene0011_00"}`` or
            ``{"ego": "takes/…/aria01_214-1.mp4", "exo1": "takes/…/cam01.mp4"}``.
        questions: at least one.
        span: (start, end) in s of the part that the questions are about; None is all of it.
        elsewhere: role → further paths, at which some official downloads have the file.
    """

    name: str
    media: Mapping[str, str]
    questions: tuple[Question, ...]
    span: tuple[float, float] | None = None
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)


class EpisodeMedia(NamedTuple):
    """An episode and its streams, unread."""

    episode: Episode
    streams: Streams

    @property
    def name(self) -> str:
        return self.episode.name

    @property
    def files(self) -> tuple[Path, ...]:
        return self.streams.files


class LoadedEpisode(TypedDict):
    """An episode with its streams; a batch for tuning is a list of these."""

    name: str
    key: str  # of the clip in a token store, empty without one; equal keys mean equal streams
    streams: dict[str, Tensor]  # uint8 (T, 3, H, W) each, ``video`` first; empty with tokens
    tokens: dict[str, Tensor]  # (T, N, D) each, if an earlier epoch stored them
    times: dict[str, tuple[float, ...]]  # U timestamps in s each, see Frames
    questions: tuple[Question, ...]
