"""Memory of a training step: what is free, what fits, and how much tensors take."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from vlynx_pl.distributed import world_size

_SHARE: Final = 0.5  # of the free memory for activations; the rest is for temporary tensors
STATES: Final = 3 * 4
"""Bytes of a trained parameter's gradient and of AdamW's two moments."""


def fitting(free: int, trained: int, each: int) -> int:
    """Return how many frames or tokens a training step can keep until its backward pass.

    Args:
        free: bytes of free memory, before the first step.
        trained: number of trained parameters.
        each: bytes that autograd keeps of a frame or token.
    """
    return int(_SHARE * (free - STATES * trained) / each)


def total_bytes(device: torch.device) -> int:
    """Return the memory of a GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return _machine("MemTotal")


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, or this process's share of that of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _machine("MemAvailable") // world_size()


def _machine(what: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


class TensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts the bytes of a module's tensors, and of all that are made in it.

    What an operator allocates and frees inside does not count.

    Args:
        module: its parameters and buffers count from the beginning.

    Attributes:
        held: bytes of the tensors that exist, those that autograd keeps included.
        peak: maximum of ``held`` so far.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._storages: set[int] = set()
        for tensor in (*module.parameters(), *module.buffers()):
            self._count(tensor)

    @override
    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self._storages:
            self._storages.add(key)
            self.held += storage.nbytes()
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.held -= size


@contextmanager
def without_values(module: nn.Module) -> Iterator[None]:
    """Run a module that is on the meta device as if on a CPU, without values and their memory."""
    new: dict[Tensor, nn.Parameter] = {}  # tied weights stay tied
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    made = nn.Parameter(_empty(parameter), parameter.requires_grad)
                    part._parameters[name] = new.setdefault(parameter, made)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = _empty(buffer)
        yield


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
