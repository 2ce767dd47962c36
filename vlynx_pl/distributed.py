"""Weights of each rank's part of a batch.

DDP averages gradients over ranks as if all had the same number of samples. A rank's mean is
multiplied by its share of the batch, so that all samples weigh the same in the last batch of an
epoch, or in a batch of clips with different numbers of questions.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total_over_ranks(part: Tensor) -> Tensor:
    """Sum a tensor over all ranks; gradients flow back to each."""
    total: Tensor = _Total.apply(part) if world_size() > 1 else part
    return total


def share_of_batch(count: int, device: torch.device) -> float:
    """Return the factor of the mean over this rank's ``count`` samples; 1 if all have as many.

    With it, the average over ranks is the mean over the samples of all ranks.
    """
    if world_size() == 1:
        return 1.0
    every = torch.tensor(count, device=device, dtype=torch.float64)
    dist.all_reduce(every)
    return count * world_size() / every.item()


def least_over_ranks(number: int, device: torch.device) -> int:
    """Return the smallest number of all ranks."""
    if world_size() == 1:
        return number
    least = torch.tensor(number, device=device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank computes with the total, so its gradient is the sum of theirs.
        return _summed(gradient)


def _summed(part: Tensor) -> Tensor:
    total = part.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
