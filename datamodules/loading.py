"""Clips and episodes as datasets: uint8 pictures of one size, read by the loaders' workers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize
from typing_extensions import override

from datamodules.frame_cache import FrameCache, states
from datamodules.samples import (
    Clip,
    Episode,
    FrameBatch,
    Frames,
    LoadedEpisode,
    Streams,
)
from vlynx_pl.errors import UserError


class FrameDataset(Dataset[tuple[Tensor, str]]):
    """Frames of a clip, uint8 (T, 3, H, W), and its name.

    Args:
        clips: what to read.
        frame_size: (H, W), see :func:`squash`.
        cache: where pictures are kept, if at all.
        kind: of the clips; tells clips of one name apart in the cache.
    """

    def __init__(
        self,
        clips: list[Clip],
        frame_size: tuple[int, int],
        cache: FrameCache | None = None,
        kind: str = "modality",
    ) -> None:
        self.clips, self.frame_size, self.cache, self.kind = clips, frame_size, cache, kind

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        clip = self.clips[index]
        read = partial(_read_clip, clip, self.frame_size)
        if self.cache is None:
            return read()["frames"].pictures, clip.name
        streams = self.cache.load(self.kind, clip.name, clip.files, read)
        return streams["frames"].pictures, clip.name


class Kept(Protocol):
    """What a token store gives of a stream."""

    @property
    def tokens(self) -> Tensor:
        """(T, N, D)."""

    @property
    def times(self) -> tuple[float, ...]:
        """Moments of its pictures in s."""


class Tokens(Protocol):
    """A store of tokens, by the key of an episode."""

    def holds(self, clip: str) -> bool:
        """Whether all streams of a clip are there."""

    def load(self, clip: str) -> Mapping[str, Kept] | None:
        """All streams of a clip, or None where one is not there."""


class EpisodeDataset(Dataset[LoadedEpisode]):
    """Episodes with their streams, uint8 (T, 3, H, W) each, or with tokens that were kept.

    Args:
        episodes: what to read.
        frame_size: (H, W), see :func:`squash`.
        settings: how it is read, in plain numbers and names.
        cache: where pictures are kept, if at all.
        tokens: where tokens are kept, if at all; a clip that it holds is not read.
    """

    def __init__(
        self,
        episodes: list[tuple[Episode, Streams]],
        frame_size: tuple[int, int],
        settings: Sequence[Any] = (),
        cache: FrameCache | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self.episodes, self.frame_size, self.settings = episodes, frame_size, settings
        self.cache, self.tokens = cache, tokens

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    def key(self, index: int) -> str:
        """Of an episode's clip; raises BadSample where a file of it is missing."""
        episode, streams = self.episodes[index]
        made_of = [*self.settings, episode.name, states(streams.files)]
        return json.dumps(made_of, sort_keys=True)

    @override
    def __getitem__(self, index: int) -> LoadedEpisode:
        episode, streams = self.episodes[index]
        loaded: LoadedEpisode = {
            "name": episode.name,
            "key": "" if self.tokens is None else self.key(index),
            "streams": {},
            "tokens": {},
            "times": {},
            "questions": episode.questions,
        }
        if self.tokens is not None and (kept := self.tokens.load(loaded["key"])) is not None:
            loaded["tokens"] = {name: stream.tokens for name, stream in kept.items()}
            loaded["times"] = {name: stream.times for name, stream in kept.items()}
            return loaded
        read = partial(_read_streams, streams, self.frame_size)
        frames = (
            self.cache.load("episode", episode.name, streams.files, read) if self.cache else read()
        )
        loaded["streams"] = {name: stream.pictures for name, stream in frames.items()}
        loaded["times"] = {name: stream.times for name, stream in frames.items()}
        return loaded


class Careful(Dataset[Any]):
    """Gives a UserError instead of raising it, so that it leaves a worker as it is."""

    def __init__(self, dataset: FrameDataset | EpisodeDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Number of clips or episodes."""
        return len(self.dataset)

    @override
    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as bad:
            return bad


def gather(batch: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """A batch of the samples, or the first that is bad."""
    return next((sample for sample in samples if isinstance(sample, UserError)), None) or batch(
        samples
    )


class Loader(DataLoader[Any]):
    """Raises what a worker found bad in the process that trains, as one message."""

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def collate(samples: list[tuple[Tensor, str]]) -> FrameBatch:
    """Stack clips of one length into a batch.

    Raises:
        UserError: their lengths differ.
    """
    frames, names = zip(*samples, strict=True)
    lengths = {len(clip): name for clip, name in samples}
    if len(lengths) > 1:
        (one, first), (other, second) = list(lengths.items())[:2]
        raise UserError(
            f"{first} has {one} frames and {second} has {other}, which make no batch; sample a "
            "fixed number of frames (data.fps=null), or one clip a batch (data.batch_size=1)"
        )
    return {"frames": torch.stack(frames), "clips": list(names)}


def squash(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (T, 3, h, w) in ``size`` (H, W), whatever their aspect ratio.

    Antialiased bicubic interpolation, as transformers' ``LlavaOnevisionVideoProcessor`` does.
    """
    squashed: Tensor = resize(pictures, list(size), InterpolationMode.BICUBIC, antialias=True)
    return squashed


def _read_clip(clip: Clip, size: tuple[int, int]) -> dict[str, Frames]:
    return {"frames": Frames(squash(clip.read(), size), ())}


def _read_streams(streams: Streams, size: tuple[int, int]) -> dict[str, Frames]:
    return {
        name: Frames(squash(stream.pictures, size), stream.times)
        for name, stream in streams.read().items()
    }
