"""Attention of a shared prefix and its branches: a token sees the prefix and its own branch.

The LLM runs with an attention function that is registered with transformers. It is SDPA, bit for
bit, unless the mask is one of blocks. Then it is FlexAttention, which skips blocks that no token
sees. transformers compiles it on first use. Its backward pass has kernels for GPUs only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BRANCH_ATTENTION = "vlynx_branches"
"""Name of the attention function in transformers' registry, as set in an LLM's config."""

_BLOCK = 128  # FlexAttention's own size of a block


def _branch_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if isinstance(attention_mask, BlockMask):
        context, _ = flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    else:
        context, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return context, None


AttentionInterface.register(BRANCH_ATTENTION, _branch_attention)
# Without a registered mask, transformers would ignore padding.
AttentionMaskInterface.register(BRANCH_ATTENTION, sdpa_mask)


def branch_mask(owners: Sequence[int], device: torch.device) -> Tensor | BlockMask | None:
    """Choose the mask of a whole sequence for its device.

    Args:
        owners: the branch of each of L tokens, counted from 1; 0 is the prefix.
        device: of the LLM.

    Returns:
        None for a single branch, which is plain causal: SDPA is fastest without a mask. Otherwise
        :func:`visible_blocks` on a CUDA device, and :func:`visible` elsewhere.
    """
    if max(owners) <= 1:
        return None
    where = torch.tensor(owners, device=device)
    return visible_blocks(where) if where.is_cuda else visible(where, len(where))


def visible(owners: Tensor, queries: int) -> Tensor:
    """Mask of the tokens that the last ``queries`` tokens attend to: the prefix and their branch.

    Args:
        owners: (L,) the branch of every token, counted from 1; 0 is the prefix.
        queries: Q.

    Returns:
        (1, 1, Q, L) bool.
    """
    order = torch.arange(len(owners), device=owners.device)
    return _sees(owners, order[-queries:, None], order)[None, None]


def visible_blocks(owners: Tensor) -> BlockMask:
    """Mask of the same tokens for FlexAttention, for all queries.

    Args:
        owners: (L,) as for :func:`visible`.

    Returns:
        Mask (1, 1, M, M), where M is L rounded up to a multiple of 128. The sequence must be padded
        to M at its end, where no token of its own sees the padding.
    """
    length = -(-len(owners) // _BLOCK) * _BLOCK
    owners = pad(owners, (0, length - len(owners)))

    def mask(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _sees(owners, query, key)

    return create_block_mask(mask, None, None, length, length, owners.device, _BLOCK)


def _sees(owners: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return ((owners[key] == 0) | (owners[key] == owners[query])) & (key <= query)
