"""Frames pass through the vision encoder in chunks, so that a chunk decides the memory of a batch.

With gradients, autograd keeps only what a chunk returns, and the rest is recomputed in the backward
pass. This takes about half as much time again and does not change losses and gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_Out = TypeVar("_Out", bound=tuple[Tensor, ...])


def in_chunks(encode: Callable[[Tensor], _Out], frames: Tensor, size: int | None) -> list[_Out]:
    """Call ``encode`` on at most ``size`` frames at a time.

    Args:
        encode: frames (b, t, 3, h, w) → tensors. The backward pass calls it again, with the same
            random numbers for dropout; these differ from those without chunks.
        frames: (B, T, 3, h, w).
        size: frames in a chunk; None is all of them.

    Returns:
        The results of ``encode`` in order, for chunks (1, F, 3, h, w) or for all of ``frames``.
    """
    if size is None or len(every := frames.flatten(0, 1)) <= size:
        return [encode(frames)]
    run = partial(checkpoint, encode, use_reentrant=False) if torch.is_grad_enabled() else encode
    return [run(chunk[None]) for chunk in torch.split(every, size)]


def joined(chunks: list[Tensor], frames: Tensor) -> Tensor:
    """Concatenate results (1, F, ...) of :func:`in_chunks` to (B, T, ...)."""
    every = torch.cat([chunk.flatten(0, 1) for chunk in chunks])
    return every.view(*frames.shape[:2], *every.shape[1:])
