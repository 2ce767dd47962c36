"""A sample of a stream's tokens, the same on one process rank as on several.

Which tokens are kept depends on a hash of their clip's name alone. So of streams that show the same
clips, with as many tokens, the tokens of the same places are kept.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Sample(NamedTuple):
    """R tokens of a stream, or R means of tokens."""

    rows: Tensor  # (R, D) float32
    clips: Tensor  # (R,) long, a hash of each row's clip
    keys: Tensor  # (R,) float64, ascending; equal keys mean the same clip and place

    def halves(self) -> tuple["Sample", "Sample"]:
        """Divide the clips into two halves at random, each with all of its rows."""
        _, number = torch.unique(self.clips, return_inverse=True)
        even = number % 2 == 0
        return Sample(*(each[even] for each in self)), Sample(*(each[~even] for each in self))


class TokenSample(Metric):
    """Keeps a :class:`Sample` over batches and process ranks.

    Args:
        channels: D.
        size: number of rows that are kept.
    """

    full_state_update = False
    kept: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        # Of each row: its key, or infinity for none, its clip, and its channels.
        empty = torch.full((size, 2 + channels), torch.inf, dtype=torch.float64)
        self.add_state("kept", empty, _smallest)

    def update(self, clip: str, tokens: Tensor) -> None:
        """Add the tokens (T, N, D) of a clip."""
        random = torch.Generator().manual_seed(_hash(f"{tuple(tokens.shape[:2])} {clip}"))
        keys = torch.rand(tokens.shape[:2].numel(), generator=random, dtype=torch.float64)
        keys = keys.to(self.kept.device)
        near = keys < self.kept[:, 0].max()
        notes = torch.stack([keys[near], torch.full_like(keys[near], _hash(clip))], 1)
        new = torch.cat([notes, tokens.flatten(0, 1)[near].to(self.kept)], 1)
        self.kept = _smallest([self.kept, new])

    def compute(self) -> Tensor:
        """What was kept of everything seen so far, on all ranks."""
        return self.kept

    def sample(self) -> Sample:
        """The sample of everything seen so far, on all ranks; on the CPU."""
        with warnings.catch_warnings():
            # This rank may not have seen any.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            kept = self.compute().cpu()
        kept = kept[kept[:, 0].isfinite()]
        return Sample(kept[:, 2:].float(), kept[:, 1].long(), kept[:, 0])


def paired(one: Sample, other: Sample) -> tuple[Tensor, Tensor]:
    """Rows (P, D) of the same clip and place; none if the streams have other numbers of tokens."""
    return (
        one.rows[torch.isin(one.keys, other.keys)],
        other.rows[torch.isin(other.keys, one.keys)],
    )


def _smallest(parts: Sequence[Tensor]) -> Tensor:
    """Of the rows of parts, those with the smallest keys, in order; as many as the first has."""
    rows = torch.cat([*parts])
    return rows[rows[:, 0].argsort()[: len(parts[0])]]


def _hash(text: str) -> int:
    digest = hashlib.sha256(ascii(text).encode()).digest()
    return int.from_bytes(digest[:6])  # which float64 has exactly
