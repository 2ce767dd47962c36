"""The order in which samples are read, which depends only on seed, epoch and position.

Batches are global: batch i of an epoch holds the same samples however many ranks share it. So a run
can stop after any batch and continue with another number of ranks, and sees every sample once.
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
        seed: of the shuffled order; None keeps the samples in order.
        rank: of this process.
        ranks: number of processes that share each batch.
        epoch: the first epoch.
        start: batches of that epoch that were already seen.

    All ranks have the same number of batches; a rank's share of the last may be empty.

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
        """This object: Lightning calls ``set_epoch`` of a batch sampler's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Use the order of this epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:  # with the batches already seen, as Lightning expects
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
    """The epoch and its batches seen so far, as arguments of :class:`Batches`."""
    loop: Any = trainer.fit_loop
    # Count processed batches, since the next one may already have been fetched.
    seen = loop.epoch_loop.batch_progress.current.processed
    return {"epoch": loop.epoch_progress.current.completed, "start": seen}


def refuse_other_order(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError if training cannot continue, since the order of samples has changed."""
    for what in now:
        if then.get(what) != now[what]:
            raise UserError(
                f"this run was stopped in the middle of other data: its {what} was "
                f"{then.get(what)}, now it is {now[what]}, so the clips that it has seen are "
                "unknown; give it the same data again, or begin a new run in another folder"
            )
