"""The order in which samples are read: a function of seed, epoch and position, and of nothing else.

Batches are global: batch i of an epoch holds the same samples however many ranks share it. So a run
may stop after any batch and go on with another number of ranks, and sees every sample once.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import Sampler
from typing_extensions import override

from vlynx_pl.io.errors import UserError


class Batches(Sampler[list[int]]):
    """A rank's share of each batch, as lists of indices.

    Args:
        count: number of samples.
        batch_size: samples of a batch, over all ranks.
        seed: of the shuffled order; None keeps them in order.
        rank: this process.
        ranks: how many share each batch.
        epoch: whose order comes first.
        start: batches of that epoch that were seen already.

    Every rank has as many batches; its share of the last may be empty.

    Raises:
        UserError: there are more ranks than samples in a batch.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        epoch: int = 0,
        start: int = 0,
    ) -> None:
        if ranks > batch_size:
            raise UserError(
                f"a batch of {batch_size} cannot be shared by {ranks} ranks; raise "
                "data.batch_size, which counts the samples of a step over all ranks"
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.ranks = rank, ranks
        self.epoch, self.start = epoch, start

    @property
    def sampler(self) -> "Batches":
        """Itself: Lightning tells the epoch to the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go on with the order of this epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Batches of an epoch, seen ones included."""
        return math.ceil(self.count / self.batch_size)

    @override
    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        order = self._order()
        for first in range(start * self.batch_size, self.count, self.batch_size):
            yield order[first : first + self.batch_size][self.rank :: self.ranks]

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(self.count))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(self.count, generator=generator).tolist()


def position(trainer: Trainer) -> dict[str, int]:
    """Epoch, and the batches of it that were seen; arguments of :class:`Batches`."""
    loop: Any = trainer.fit_loop
    # What was processed, since the next batch may be on its way already.
    seen = loop.epoch_loop.batch_progress.current.processed
    return {"epoch": loop.epoch_progress.current.completed, "start": seen}


def refuse_other_order(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError where training cannot go on, since what makes its order has changed."""
    for what in now:
        if then.get(what) != now[what]:
            raise UserError(
                f"this run was stopped in the middle of other data: its {what} was "
                f"{then.get(what)}, now it is {now[what]}, and nothing tells which clips it has "
                "seen; give it the same data again, or begin a new run in another folder"
            )
