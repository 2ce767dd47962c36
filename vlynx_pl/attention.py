"""Observing the vision encoder's attention without copying model code.

Two attention functions are registered with transformers. They are SDPA, bit for bit; inside
:func:`listen` they also record the queries, keys and values that the layer has projected, so that
nothing is projected twice (paper section 3.2, eq. 2 and 4).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

LISTENING_ATTENTION = "vlynx_listening"
"""Name of the attention function in transformers' registry, as set in a vision config."""

# Encoders with packed frames ask for attention once per layer if "flash" is part of the name, and
# otherwise once per window.
PACKED_ATTENTION = "vlynx_listening_flash"
"""Name of the attention function for packed frames, whose windows it computes in a few calls."""


class AttentionCall(NamedTuple):
    """Result of one self-attention layer for F frames of S positions, with h heads of d channels.

    Queries and keys are as the attention function gets them, after any rotation or norm.
    """

    layer: int
    query: Tensor  # (F, h, S, d)
    key: Tensor  # (F, h, S, d)
    value: Tensor  # (F, h, S, d)
    context: Tensor  # (F, S, h*d), before the output projection
    output: Tensor  # (F, S, C), after the output projection


class _Part(NamedTuple):
    """A call of the attention function: whole frames, or consecutive windows of packed frames."""

    query: Tensor  # (F, h, S, d), or (1, h, n, d)
    key: Tensor
    value: Tensor
    context: Tensor  # (F, S, h, d), or (1, n, h, d)


Listener = Callable[[AttentionCall], None]
_Heard = dict[nn.Module, list[_Part]]
_heard: ContextVar[tuple[_Heard, ...]] = ContextVar("vlynx_heard", default=())


def _listening_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    context, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    _note(module, _Part(query, key, value, context))
    return context, None


def _packed_attention(
    module: nn.Module,
    query: Tensor,  # (1, h, R, d), the windows of all frames in a row
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor | Sequence[int],  # where each window begins, and R
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    bounds = cu_seq_lens_q.tolist() if isinstance(cu_seq_lens_q, Tensor) else cu_seq_lens_q
    lengths = [end - begin for begin, end in pairwise(bounds)]
    counts = sorted(Counter(lengths).items())
    sizes = [length * count for length, count in counts]
    order = None
    rows = [query, key, value]
    if len(counts) > 1:  # windows of one length are put together
        each = torch.tensor(lengths, device=query.device)
        order = each.repeat_interleave(each, output_size=bounds[-1]).argsort(stable=True)
        rows = [row.index_select(2, order) for row in rows]
    contexts = []
    groups = (torch.split(row[0], sizes, 1) for row in rows)
    for (length, _), *parts in zip(counts, *groups, strict=True):
        heads, _, channels = parts[0].shape
        q, k, v = (part.view(heads, -1, length, channels).transpose(0, 1) for part in parts)
        found, _ = sdpa_attention_forward(module, q, k, v, None, scaling=scaling, is_causal=False)
        contexts.append(found.flatten(0, 1))
    context = torch.cat(contexts)[None]  # (1, R, h, d)
    if order is not None:
        context = context.index_select(1, order.argsort())
    _note(module, _Part(query, key, value, context))
    return context, None


def _note(module: nn.Module, part: _Part) -> None:
    for heard in _heard.get():
        heard.setdefault(module, []).append(part)


AttentionInterface.register(LISTENING_ATTENTION, _listening_attention)
AttentionInterface.register(PACKED_ATTENTION, _packed_attention)
# Without a registered mask, transformers would ignore padding.
AttentionMaskInterface.register(LISTENING_ATTENTION, sdpa_mask)


@contextmanager
def listen(layers: Sequence[nn.Module], listener: Listener, positions: int) -> Iterator[None]:
    """Call ``listener`` once for every forward of every attention layer in ``layers``.

    A layer may call its attention function once for all frames, or several times for windows of
    frames in a packed row; the parts are joined. The layers must run with the attention named by
    :data:`LISTENING_ATTENTION` or :data:`PACKED_ATTENTION`. Leave the context before
    ``backward()``, as gradient checkpointing would call the listener again. Contexts may be nested.

    Args:
        layers: the self-attention modules.
        listener: called with each layer's result.
        positions: S, of a frame.

    Raises:
        RuntimeError: a layer ran with another attention implementation, or its calls are not whole
            frames.
    """
    heard: _Heard = {}

    def hook(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def report(module: nn.Module, _: Any, output: Any) -> None:
            if module not in heard:
                raise RuntimeError(
                    f"attention layer {index} ran without {LISTENING_ATTENTION!r} or "
                    f"{PACKED_ATTENTION!r}; load the model with vlynx_pl.backbones.load_backbone "
                    "and leave its attention as it is"
                )
            query, key, value, context = _whole_frames(heard.pop(module), positions, index)
            if isinstance(output, tuple):
                output = output[0]
            rows = output.reshape(len(query), positions, -1)
            listener(AttentionCall(index, query, key, value, context.flatten(2), rows))

        return report

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    token = _heard.set((*_heard.get(), heard))
    try:
        yield
    finally:
        _heard.reset(token)
        for handle in handles:
            handle.remove()


def _whole_frames(parts: Sequence[_Part], positions: int, layer: int) -> _Part:
    """Join the calls of a layer, and divide a packed row into frames of S positions."""
    whole = parts[0] if len(parts) == 1 else _joined(parts, layer)
    if whole.query.shape[2] == positions:
        return whole
    if len(whole.query) != 1 or whole.query.shape[2] % positions:
        raise RuntimeError(
            f"attention layer {layer} was called with {tuple(whole.query.shape)}, which is not a "
            f"number of frames of {positions} positions; correct the backbone's patch_places"
        )

    def frames(row: Tensor) -> Tensor:  # (1, h, F*S, d) → (F, h, S, d)
        _, heads, _, channels = row.shape
        return row.view(heads, -1, positions, channels).transpose(0, 1)

    context = whole.context.view(-1, positions, *whole.context.shape[2:])
    return _Part(frames(whole.query), frames(whole.key), frames(whole.value), context)


def _joined(parts: Sequence[_Part], layer: int) -> _Part:
    if any(len(part.query) != 1 for part in parts):
        raise RuntimeError(
            f"attention layer {layer} was called {len(parts)} times in one forward, with more than "
            "a packed row; the method needs a layer whose calls are parts of one row"
        )
    queries, keys, values, contexts = zip(*parts, strict=True)
    return _Part(
        torch.cat(queries, 2), torch.cat(keys, 2), torch.cat(values, 2), torch.cat(contexts, 1)
    )
