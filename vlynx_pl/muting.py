"""Ways to answer questions again, which show what the answers depend on.

A stream is left out, or replaced by another clip's. If the answers are as good as before, they do
not depend on it.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import torch

from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.stream_tokens import EncodedClip, StreamTokens

_SEED: Final = 0
_MOST: Final = 2 * 2**30  # bytes


class Way(NamedTuple):
    """A way to answer questions again; as text, such as ``without 3d``."""

    how: Literal["without", "another clip's", "untuned"]
    stream: str

    def __str__(self) -> str:
        return " ".join(self)


BASELINE: Final = Way("untuned", "backbone")
"""The video alone, read by the LLM without its adapter."""


class Encodings:
    """Encoded clips in the CPU's memory, as many as fit.

    Args:
        most: limit in bytes.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._free = most
        self._clips: dict[str, EncodedClip] = {}

    def keep(self, clip: EncodedClip) -> None:
        """Keep a clip if there is room."""
        size = sum(each.nbytes for each in clip.encoded.values())
        if size <= self._free:
            self._free -= size
            about = {name: clip.episode[name] for name in ("name", "times", "questions")}
            self._clips[about["name"]] = EncodedClip(about, clip.encoded).on(torch.device("cpu"))

    def of(self, name: str) -> EncodedClip | None:
        """Return a clip, or None if it was not kept."""
        return self._clips.get(name)


def circle(clips: Iterable[str]) -> list[str]:
    """Arrange clips in a circle, in which the one before a clip is its other clip.

    Every clip is the other clip of exactly one. The order depends on the names only, so that it is
    the same on any number of process ranks, and neighbours in a file are not paired on purpose.
    """
    names = sorted(set(clips))
    return [names[i] for i in np.random.default_rng(_SEED).permutation(len(names))]


def ways_to_mute(streams: StreamTokens, clips: int) -> list[Way]:
    """Return the ways to mute each stream; none if the video is the only one.

    Args:
        streams: of the run.
        clips: number of clips in the split; another clip's stream needs two.
    """
    every = streams.sources
    if len(every) < 2:
        return []
    modalities_first = (*every[1:], every[0])
    return [
        way
        for name in modalities_first
        for way in (Way("without", name), Way("another clip's", name))
        if (clips > 1 if way.how == "another clip's" else streams.can_leave_out(name))
    ]


def muted(
    streams: StreamTokens, way: Way, clip: EncodedClip, other: EncodedClip | None
) -> Sequence[Stream]:
    """Make the LLM's tokens of a clip in one of the ways.

    Args:
        streams: of the run.
        way: see :func:`ways_to_mute`; or ``BASELINE``.
        clip: the one that the questions are about.
        other: the one before it in the circle; may be None for ways that do not need it.
    """
    if way == BASELINE:
        return streams.video_alone(clip)
    if way.how == "without":
        return streams.without({way.stream}, clip)
    assert other is not None
    return streams.with_other(way.stream, clip, other)
