"""Frames pass through the vision encoder in chunks, so that a chunk decides the memory of a batch.

With gradients, autograd keeps only what a chunk returns, and the rest is recomputed in the backward
pass. This takes about half as much time again and does not change losses and gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from vlynx_pl.distributed import world_size

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


@contextmanager
def count_saved_bytes(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the bytes that autograd keeps for the backward pass, besides parameters of ``model``.

    Yields:
        A function that returns the bytes kept so far, each storage once. The context frees nothing.
    """
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in kept.values())


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, or this process's share of that of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return free * 1024 // world_size()
