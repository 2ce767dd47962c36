"""What a worker does for a sample: reads a clip or an episode as uint8 frames of one size."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from datamodules.loading.frame_cache import FrameCache, file_states
from datamodules.samples import Clip, EpisodeMedia, FrameBatch, Frames, LoadedEpisode, Streams
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import TokenStore


@dataclass(frozen=True)
class ReadClip:
    """Reads frames of a clip, uint8 (T, 3, H, W), and its name.

    Args:
        frame_size: (H, W), see :func:`resize_ignoring_aspect`.
        cache: of the frames, if there is one.
        kind: of the clips; distinguishes clips of the same name in the cache.
    """

    frame_size: tuple[int, int]
    cache: FrameCache | None = None
    kind: str = "modality"

    def __call__(self, clip: Clip) -> tuple[Tensor, str]:
        """Raises BadSample."""
        read = partial(_read_clip, clip, self.frame_size)
        if self.cache is None:
            return read()["frames"].pixels, clip.name
        streams = self.cache.load(self.kind, clip.name, clip.files, read)
        return streams["frames"].pixels, clip.name


@dataclass(frozen=True)
class ReadEpisode:
    """Reads an episode's streams, uint8 (T, 3, H, W) each, or loads their tokens from a store.

    Args:
        frame_size: (H, W), see :func:`resize_ignoring_aspect`.
        preprocessing: everything that the frames depend on, in numbers and names.
        cache: of the frames, if there is one.
        tokens: store of tokens, if there is one; a clip that it holds is not read.
        unread: names of episodes that are returned without streams.
    """

    frame_size: tuple[int, int]
    preprocessing: Any = None
    cache: FrameCache | None = None
    tokens: TokenStore | None = None
    unread: frozenset[str] = frozenset()

    def key(self, media: EpisodeMedia) -> str:
        """The key of an episode's clip; raises BadSample if one of its files is missing."""
        content = [self.preprocessing, media.name, file_states(media.files)]
        return json.dumps(content, sort_keys=True)

    def __call__(self, media: EpisodeMedia) -> LoadedEpisode:
        """Raises BadSample."""
        loaded: LoadedEpisode = {
            "name": media.name,
            "key": "",
            "streams": {},
            "tokens": {},
            "times": {},
            "questions": media.episode.questions,
        }
        if media.name in self.unread:
            return loaded
        if self.tokens is not None:
            loaded["key"] = self.key(media)
            if kept := self.tokens.load(loaded["key"]):
                loaded["tokens"] = {name: tokens for name, (tokens, _) in kept.items()}
                loaded["times"] = {name: times for name, (_, times) in kept.items()}
                return loaded
        read = partial(_read_streams, media.streams, self.frame_size)
        frames = self.cache.load("episode", media.name, media.files, read) if self.cache else read()
        loaded["streams"] = {name: stream.pixels for name, stream in frames.items()}
        loaded["times"] = {name: stream.times for name, stream in frames.items()}
        return loaded


def collate(samples: Sequence[tuple[Tensor, str]], frame_size: tuple[int, int]) -> FrameBatch:
    """Stack clips of one length into a batch; no clips make a batch of shape (0, 1, 3, H, W).

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
            "fixed number of frames (data.fps=null), or one clip per batch (data.batch_size=1)"
        )
    return {"frames": torch.stack(frames), "clips": list(names)}


def resize_ignoring_aspect(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames (T, 3, h, w) to ``size`` (H, W), ignoring their aspect ratio.

    Antialiased bicubic interpolation, as transformers' ``LlavaOnevisionVideoProcessor`` does.
    """
    resized: Tensor = resize(frames, list(size), InterpolationMode.BICUBIC, antialias=True)
    return resized


def _read_clip(clip: Clip, size: tuple[int, int]) -> dict[str, Frames]:
    return {"frames": Frames(resize_ignoring_aspect(clip.read(), size), ())}


def _read_streams(streams: Streams, size: tuple[int, int]) -> dict[str, Frames]:
    return {
        name: Frames(resize_ignoring_aspect(stream.pixels, size), stream.times)
        for name, stream in streams.read().items()
    }
