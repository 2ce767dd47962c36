"""Observing the vision encoder's attention without copying model code.

An attention function is registered with transformers. It is SDPA, bit for bit; inside
:func:`listen` it also records the queries, keys and values that the layer has projected, so that
nothing is projected twice (paper section 3.2, eq. 2 and 4).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LISTENING_ATTENTION = "vlynx_listening"
"""Name of the attention function in transformers' registry, as set in a vision config."""


class AttentionCall(NamedTuple):
    """Result of one self-attention layer for F frames of S tokens, with h heads of d channels."""

    layer: int
    query: Tensor  # (F, h, S, d)
    key: Tensor  # (F, h, S, d)
    value: Tensor  # (F, h, S, d)
    context: Tensor  # (F, S, h*d), before the output projection
    output: Tensor  # (F, S, C), after the output projection


Listener = Callable[[AttentionCall], None]
_heard: ContextVar[dict[nn.Module, tuple[Tensor, Tensor, Tensor, Tensor]] | None] = ContextVar(
    "vlynx_heard", default=None
)


def _listening_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    context, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    heard = _heard.get()
    if heard is not None:
        heard[module] = (query, key, value, context)
    return context, None


AttentionInterface.register(LISTENING_ATTENTION, _listening_attention)
# Without a registered mask, transformers would ignore padding.
AttentionMaskInterface.register(LISTENING_ATTENTION, sdpa_mask)


@contextmanager
def listen(layers: Sequence[nn.Module], listener: Listener) -> Iterator[None]:
    """Call ``listener`` once for every forward of every attention layer in ``layers``.

    The layers must run with the attention named by :data:`LISTENING_ATTENTION`. Leave the context
    before ``backward()``, as gradient checkpointing would call the listener again.

    Raises:
        RuntimeError: a layer ran with another attention implementation.
    """
    heard: dict[nn.Module, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def hook(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def report(module: nn.Module, _: Any, output: Any) -> None:
            if module not in heard:
                raise RuntimeError(
                    f"attention layer {index} ran without {LISTENING_ATTENTION!r}; load the model "
                    "with vlynx_pl.backbones.load_backbone and leave its attention as it is"
                )
            query, key, value, context = heard.pop(module)
            listener(AttentionCall(index, query, key, value, context.flatten(2), output[0]))

        return report

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)
        for handle in handles:
            handle.remove()
