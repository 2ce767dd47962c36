"""PAVE's patch: adds a side channel to the video tokens, frame by frame.

Each frame's tokens attend to the side tokens of the same period; the result is added to the visual
tokens, whose number stays the same. As in the released checkpoints, and unlike PAVE's paper, there
is no norm before attention and no projection after it. The rotary embedding of one checkpoint
(0.5B, enhanced video) is not supported.
"""

from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention
from typing_extensions import override


class TemporalPatch(nn.Module):
    """Computes what is added to the visual tokens; zero before training.

    Args:
        side_dim: channels C of the side tokens.
        out_dim: channels D of the visual tokens, the LLM's width.
        query_dim: channels Q of the vision encoder before the projector.
        hidden: width of the patch.
        heads: of its attention.
        layers: number of attention layers (3 in PAVE for MUSIC-AVQA).
        tied: project values with the keys' weights, as in the released code, which has weights for
            values but never uses them. False uses them, and gives the published number of weights.
    """

    def __init__(
        self,
        side_dim: int,
        out_dim: int,
        query_dim: int = 1152,
        hidden: int = 512,
        heads: int = 4,
        layers: int = 2,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.side = nn.Linear(side_dim, hidden)
        self.query = nn.Linear(query_dim, hidden)
        self.layers = nn.ModuleList(_Layer(hidden, heads, tied) for _ in range(layers))
        self.out = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, out_dim)
        )
        self.norm = nn.LayerNorm(out_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.norm.weight)  # as is its bias, so nothing is added at first

    @override
    def forward(self, queries: Tensor, side: Tensor) -> Tensor:
        """Compute what is added to a clip's tokens.

        Args:
            queries: (T, S, Q) features of the video's frames, before the projector.
            side: (U, R, C) tokens at U timestamps of the side channel.

        Returns:
            (T, S, D).

        Raises:
            ValueError: one of them is empty.
        """
        if not queries.numel() or not side.numel():
            raise ValueError(f"nothing to patch: {tuple(queries.shape)}, {tuple(side.shape)}")
        x, projected = self.query(queries), self.side(side)
        if len(side) < len(queries):
            projected = _interpolated(projected, len(queries))
        context, mask = _periods(projected, len(queries))
        for layer in self.layers:
            x = layer(x, context, mask)
        patch: Tensor = self.norm(self.out(x))
        return patch


class _Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, tied: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.value = None if tied else nn.Linear(hidden, hidden)
        self.feed = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, 2 * hidden, bias=False),
            nn.GELU(),
            nn.Linear(2 * hidden, hidden, bias=False),
        )

    @override
    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        keys = self.key(context)
        values = keys if self.value is None else self.value(context)
        query, key, value = map(self._split, (self.query(x), keys, values))
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = attended.transpose(1, 2).flatten(2) + x
        out: Tensor = self.feed(x) + x
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        """(T, S, H) → (T, heads, S, H / heads)."""
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


def _interpolated(side: Tensor, frames: int) -> Tensor:
    """(U, R, H) → (frames, R, H), linearly in time, from the first timestamp to the last."""
    return interpolate(side.permute(1, 2, 0), frames, mode="linear", align_corners=True).permute(
        2, 0, 1
    )


def _periods(side: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Divide the timestamps between frames, in order and without overlap.

    Returns:
        Tokens (frames, M · R, H), padded to the longest period, and the mask (frames, 1, 1, M · R)
        of those that are not padding. If U is not a multiple, the first frames have one timestamp
        more.
    """
    share, more = divmod(len(side), frames)
    ends = accumulate((share + (frame < more) for frame in range(frames)), initial=0)
    parts = [side[start:end].flatten(0, 1) for start, end in pairwise(ends)]
    longest = max(map(len, parts))
    tokens = torch.stack([pad(part, (0, 0, 0, longest - len(part))) for part in parts])
    lengths = torch.tensor([len(part) for part in parts], device=side.device)
    return tokens, (torch.arange(longest, device=side.device) < lengths[:, None])[:, None, None]
