"""Clips and episodes as datasets: uint8 pictures of one size, read by the loaders' workers."""

import json
import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize
from typing_extensions import override

from datamodules.frame_cache import FrameCache, states
from datamodules.mishaps import Reading, explained, starting
from datamodules.processes import READERS
from datamodules.samples import (
    Clip,
    Episode,
    FrameBatch,
    Frames,
    LoadedEpisode,
    Streams,
)
from datamodules.watching import Watched, make_board, noted, share
from vlynx_pl.errors import UserError
from vlynx_pl.tensor_store import TokenStore


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

    def reading(self, index: int) -> Reading:
        """What is read for a clip."""
        return Reading(self.clips[index].name, self.clips[index].files)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        clip = self.clips[index]
        read = partial(_read_clip, clip, self.frame_size)
        if self.cache is None:
            return read()["frames"].pictures, clip.name
        streams = self.cache.load(self.kind, clip.name, clip.files, read)
        return streams["frames"].pictures, clip.name


class EpisodeDataset(Dataset[LoadedEpisode]):
    """Episodes with their streams, uint8 (T, 3, H, W) each, or with tokens that were kept.

    Args:
        episodes: what to read.
        frame_size: (H, W), see :func:`squash`.
        settings: how it is read, in plain numbers and names.
        cache: where pictures are kept, if at all.
        tokens: where tokens are kept, if at all; a clip that it holds is not read.
        unread: names of episodes that are given without streams.
    """

    def __init__(
        self,
        episodes: list[tuple[Episode, Streams]],
        frame_size: tuple[int, int],
        settings: Sequence[Any] = (),
        cache: FrameCache | None = None,
        tokens: TokenStore | None = None,
        unread: Collection[str] = (),
    ) -> None:
        self.episodes, self.frame_size, self.settings = episodes, frame_size, settings
        self.cache, self.tokens, self.unread = cache, tokens, unread

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    def reading(self, index: int) -> Reading:
        """What is read for an episode."""
        episode, streams = self.episodes[index]
        return Reading(episode.name, streams.files)

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
            "key": "",
            "streams": {},
            "tokens": {},
            "times": {},
            "questions": episode.questions,
        }
        if episode.name in self.unread:
            return loaded
        if self.tokens is not None:
            loaded["key"] = self.key(index)
            if kept := self.tokens.load(loaded["key"]):
                loaded["tokens"] = {name: tokens for name, (tokens, _) in kept.items()}
                loaded["times"] = {name: times for name, (_, times) in kept.items()}
                return loaded
        read = partial(_read_streams, streams, self.frame_size)
        frames = (
            self.cache.load("episode", episode.name, streams.files, read) if self.cache else read()
        )
        loaded["streams"] = {name: stream.pictures for name, stream in frames.items()}
        loaded["times"] = {name: stream.times for name, stream in frames.items()}
        return loaded


class Careful(Dataset[Any]):
    """Gives a UserError instead of raising it, so that it leaves a worker as it is.

    Attributes:
        board: where workers note what they read, if there are any.
    """

    board: Tensor | None = None

    def __init__(self, dataset: FrameDataset | EpisodeDataset) -> None:
        self.dataset = dataset

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: each tensor in it would else travel as an open file, of which 253 are the most.
        return _careful, (pickle.dumps(self.dataset), self.board)

    def __len__(self) -> int:
        """Number of clips or episodes."""
        return len(self.dataset)

    @override
    def __getitem__(self, index: int) -> Any:
        try:
            with noted(self.board, index), explained(self.dataset.reading(index)):
                return self.dataset[index]
        except UserError as bad:
            return bad


def _careful(dataset: bytes, board: Tensor | None) -> Careful:
    careful = Careful(pickle.loads(dataset))  # of the process that started this one
    careful.board = board
    return careful


def gather(batch: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """A batch of the samples, or what is bad about the first that is; UserErrors are given."""
    if bad := [sample for sample in samples if isinstance(sample, UserError)]:
        return bad[0]
    try:
        made = batch(samples)
        # Torch would do it later in a thread, where it loses a batch that finds no room.
        if get_worker_info() is not None:
            share(made)
    except UserError as bad_batch:
        return bad_batch
    return made


class Loader(DataLoader[Any]):
    """Raises what a worker found bad, or became of it, as one message where the training is.

    Its dataset is a :class:`Careful` one, and travels to the workers by pickle. ``timeout`` is the
    time in s that one clip may take.
    """

    dataset: Careful

    def __init__(self, dataset: Careful, batch_size: int | None = 1, **settings: Any) -> None:
        context = READERS if settings.get("num_workers") else None
        super().__init__(dataset, batch_size, multiprocessing_context=context, **settings)

    @override
    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return super()._get_iterator()
        with starting(self.num_workers):
            self.dataset.board = make_board(self.num_workers)
            return Watched(self, self.dataset.board, self.dataset.dataset.reading)

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            for batch in super().__iter__():
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except UserError:
            self._iterator = None  # its workers may be gone; another try has new ones
            raise


def collate(samples: list[tuple[Tensor, str]], frame_size: tuple[int, int]) -> FrameBatch:
    """Stack clips of one length into a batch; none at all are a batch of one frame each.

    Raises:
        UserError: their lengths differ.
    """
    if not samples:
        return {"frames": torch.empty(0, 1, 3, *frame_size, dtype=torch.uint8), "clips": []}
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
