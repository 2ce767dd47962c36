"""Memory and operations of a forward and backward pass, measured with tensors without values.

Inputs of two sizes give the cost of each further frame or token.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from vlynx_pl.adapter_training import AdapterTraining
from vlynx_pl.memory import TensorBytes

_ATEN: Final = torch.ops.aten
_FLOPS: Final = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class _Counter(TensorBytes):  # type: ignore[no-untyped-call]
    """Also counts the floating point operations of matrix products and attention.

    torch's FlopCounterMode has the same formulas, but keeps recomputed tensors alive.
    """

    flops = 0

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        if count := _FLOPS.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        return made


class Cost(NamedTuple):
    """Cost of a forward and backward pass, or of one frame or token in it."""

    kept: float  # bytes after the forward pass
    peak: float  # bytes
    forward: float  # FLOP of the forward pass
    flops: float  # FLOP of both


class Line(NamedTuple):
    """Costs for inputs of any size."""

    base: float  # bytes at the peak, whatever the size
    each: Cost  # of a frame or token
    flops: float  # of the larger input that was measured


@dataclass(frozen=True)
class Measure:
    """Measures parts of a training step.

    Args:
        module: in training mode and without values, see :func:`vlynx_pl.memory.without_values`.
        autocast: dtype of mixed precision, if it is used.
    """

    module: AdapterTraining
    autocast: torch.dtype | None

    def cost(self, forward: Callable[[], Tensor]) -> Cost:
        """Measure a forward pass, and the backward pass where there is one."""
        self.module.zero_grad()
        counter = _Counter(self.module)
        enabled = self.autocast is not None
        with counter, torch.autocast("cpu", self.autocast or torch.bfloat16, enabled=enabled):
            result = forward()
            kept, first = counter.held, counter.flops
            if result.requires_grad:
                result.backward()  # type: ignore[no-untyped-call]
        return Cost(kept, counter.peak, first, counter.flops)

    def line(self, forward: Callable[[int], Tensor], size: int) -> Line:
        """Measure inputs of half of ``size`` and of ``size``."""
        half = size // 2
        small, large = (self.cost(partial(forward, count)) for count in (half, size))
        each = Cost(*((b - a) / (size - half) for a, b in zip(small, large, strict=True)))
        return Line(small.peak - half * each.peak, each, large.flops)

    def encode(self, adapter: str | None, count: int) -> Tensor:
        """Encode frames, with gradients only if there is an adapter."""
        with torch.set_grad_enabled(adapter is not None):
            return self.module.backbone.encode(self.frames(count), adapter).sum()

    def frames(self, count: int) -> Tensor:
        """Return so many frames of a clip, (1, T, 3, H, W)."""
        backbone = self.module.backbone
        return torch.zeros(1, count, 3, *backbone.frame_size, dtype=backbone.dtype)
