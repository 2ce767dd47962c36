"""Fewer tokens for the LLM: some of a clip's tokens are kept, and the others dropped.

They are chosen once per clip and without looking at the questions, so that all questions share a
prefix. A kept token keeps its position, and the text after a stream begins where it would without
reduction: what reduction costs otherwise is mostly lost positions (arXiv 2506.21873).
"""

from collections.abc import Sequence
from math import isqrt
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from vlynx_pl.io.errors import UserError

Keep: TypeAlias = int | float
"""Tokens per frame (int), or a share of all tokens (float)."""


def count_kept(keep: Keep, frames: int, per_frame: int) -> int:
    """Return how many tokens of a stream are kept; raise UserError if there are none."""
    count = keep * frames if isinstance(keep, int) else round(keep * frames * per_frame)
    if not 0 < count <= frames * per_frame:
        raise UserError(
            f"model.streams.keep={keep} keeps {count} of {frames * per_frame} tokens; give a share "
            f"of them that keeps one or more, or a whole number of tokens per frame up to "
            f"{per_frame}"
        )
    return count


def pool(tokens: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Average the tokens of each frame over a square grid of cells.

    Args:
        tokens: (T, N, W), N in rows and columns of a square.
        side: cells in a row and in a column.

    Returns:
        (T · side², W) tokens, and the places (T, N) bool of the cells' centres.
    """
    frames, per_frame = tokens.shape[:2]
    rows = isqrt(per_frame)
    cells = adaptive_avg_pool2d(tokens.mT.reshape(frames, -1, rows, rows), side)
    # A cell reaches from floor(i · rows / side) to ceil((i + 1) · rows / side).
    ends = ((i * rows // side, -(-(i + 1) * rows // side)) for i in range(side))
    centres = torch.tensor([(first + end - 1) // 2 for first, end in ends])
    places = torch.zeros(rows, rows, dtype=torch.bool)
    places[centres[:, None], centres] = True
    kept = places.flatten().expand(frames, -1).to(tokens.device)
    return cells.flatten(2).mT.flatten(0, 1), kept


def salient(tokens: Tensor, usual: Tensor, count: int) -> Tensor:
    """Choose the tokens that differ most from what their place usually holds.

    Args:
        tokens: (T, N, W).
        usual: (N, W) mean token of each place.
        count: of tokens to choose, in the whole clip; of equal ones, the earlier.

    Returns:
        (T, N) bool.
    """
    scores = (tokens.float() - usual.to(tokens.device)).norm(dim=-1)
    return _mask(scores.flatten().argsort(descending=True, stable=True)[:count], tokens)


def spread(streams: Sequence[Tensor], count: int) -> list[Tensor]:
    """Choose tokens of all streams together that are far from each other (DivPrune, 2503.02175).

    The first is farthest from the mean direction. Each next one has the smallest cosine similarity
    to its nearest chosen token; of equal ones, the earliest is chosen.

    Args:
        streams: (T, N, W) each.
        count: of tokens to choose.

    Returns:
        (T, N) bool for each stream.
    """
    rows = normalize(torch.cat([tokens.flatten(0, 1) for tokens in streams]).float(), dim=-1)
    nearest = rows @ rows.mean(0)
    kept = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for number in range(count):
        chosen = nearest.argmin(keepdim=True)
        kept[chosen] = True
        similar = (rows @ rows[chosen].T).squeeze(1)
        nearest = torch.maximum(nearest, similar) if number else similar
        nearest = nearest.masked_fill(kept, torch.inf)
    shapes = [tokens.shape[:2] for tokens in streams]
    parts = torch.split(kept, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def at_random(tokens: Tensor, count: int, seed: int) -> Tensor:
    """Choose tokens (T, N, W) by a seed; return their places (T, N) bool."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(tokens.shape[:2].numel(), generator=generator)
    return _mask(order[:count].to(tokens.device), tokens)


def _mask(chosen: Tensor, tokens: Tensor) -> Tensor:
    kept = torch.zeros(tokens.shape[:2].numel(), dtype=torch.bool, device=tokens.device)
    kept[chosen] = True
    return kept.view(tokens.shape[:2])
