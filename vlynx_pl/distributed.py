"""A batch that several ranks share: what each rank's part of it counts.

DDP averages gradients over ranks as if all had the same number of samples. So that each sample
weighs alike in the last batch of an epoch, or in one of clips with unlike numbers of questions, a
rank's mean is multiplied by its share of the batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total_over_ranks(part: Tensor) -> Tensor:
    """The sum over all ranks, through which each rank's gradient flows back."""
    total: Tensor = _Total.apply(part) if world_size() > 1 else part
    return total


def share_of_batch(count: int, device: torch.device) -> float:
    """What the mean over this rank's ``count`` samples is multiplied by, 1 where all have as many.

    The average over ranks of the products is the mean over the samples of all ranks.
    """
    if world_size() == 1:
        return 1.0
    every = torch.tensor(count, device=device, dtype=torch.float64)
    dist.all_reduce(every)
    return count * world_size() / every.item()


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank computes with the total, so all that they want of it comes together here.
        return _summed(gradient)


def _summed(part: Tensor) -> Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
