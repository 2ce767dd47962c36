"""Distance of a stream of tokens from the video interface, and two signs of its health.

Tokens that no longer depend on their input have a tiny attention gap. So the gap is always shown
with the variance between samples and the effective rank, relative to those of RGB video tokens.
"""

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torchmetrics import Metric

from vlynx_pl.guidance import InterfaceGuidance, merge_moments, moments

_EPSILON: Final = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class InterfaceGap:
    """Distances from the guidance, and health, of one stream of tokens."""

    attention: Tensor = field(repr=False)  # (L,) mean L1 gap of each layer
    token_mean: Tensor = field(repr=False)  # (W,)
    token_var: Tensor = field(repr=False)  # (W,)
    mean_distance: float  # ‖μ_v − μ‖₂
    var_distance: float  # ‖σ²_v − σ²‖₂
    sample_variance: float  # between samples at the same position, summed over channels
    effective_rank: float  # exp of the entropy of the covariance's normalised spectrum

    @property
    def stat(self) -> float:
        """L_stat (eq. 8) over everything seen."""
        return self.mean_distance + self.var_distance


class InterfaceGapMeter(Metric):
    """Accumulates an :class:`InterfaceGap` over batches and ranks.

    Args:
        guidance: the statistics to compare with.
        positions: N, tokens per frame.
        channels: D of the LLM's input. The effective rank is that of these channels; those for
            deeper layers of the LLM follow.
    """

    full_state_update = False
    attention_sum: Tensor
    num_frames: Tensor
    by_position: Tensor
    second_moment: Tensor

    def __init__(self, guidance: InterfaceGuidance, positions: int, channels: int) -> None:
        super().__init__()
        self.guidance, self.positions, self.channels = guidance, positions, channels
        layers = len(guidance.keys)
        self.add_state("attention_sum", torch.zeros(layers, dtype=torch.float64), "sum")
        self.add_state("num_frames", torch.tensor(0), "sum")
        empty = torch.zeros(3, positions * len(guidance.token_mean), dtype=torch.float64)
        self.add_state("by_position", empty, merge_moments)
        empty = torch.zeros(channels, channels, dtype=torch.float64)
        self.add_state("second_moment", empty, "sum")

    def update(self, tokens: Tensor, attention: Tensor) -> None:
        """Add tokens (B, T, N, W) and the attention gaps (L,) measured on them."""
        rows = tokens.flatten(0, 1).double()  # (F, N, W)
        part = moments(rows.flatten(1))
        self.by_position = merge_moments(torch.stack([self.by_position, part]))
        inputs = rows[..., : self.channels].flatten(0, 1)
        self.second_moment += inputs.T @ inputs
        self.attention_sum += attention.double() * len(rows)
        self.num_frames += len(rows)

    def compute(self) -> dict[str, Tensor]:
        """Means over everything seen so far, on all ranks, float64."""
        frames = self.num_frames
        _, mean, deviation = self.by_position.view(3, self.positions, -1)  # each (N, W)
        token_mean, input_mean = mean.mean(0), mean[:, : self.channels]
        return {
            "attention": self.attention_sum / frames,
            "token_mean": token_mean,
            "token_var": (deviation / frames).mean(0) + (mean - token_mean).square().mean(0),
            "sample_variance": deviation.sum() / (frames * self.positions),
            # Without each position's own mean, only what depends on the input is left.
            "scatter": self.second_moment - frames * input_mean.T @ input_mean,  # (D, D)
            "rounding": self.second_moment.trace() * len(self.second_moment) * _EPSILON,
        }

    def gap(self) -> InterfaceGap:
        """Return the gap of everything seen so far, on all ranks; its tensors are on the CPU."""
        seen = self.compute()
        token_mean, token_var = seen["token_mean"], seen["token_var"]
        return InterfaceGap(
            attention=seen["attention"].cpu(),
            token_mean=token_mean.cpu(),
            token_var=token_var.cpu(),
            mean_distance=float((self.guidance.token_mean.to(token_mean) - token_mean).norm()),
            var_distance=float((self.guidance.token_var.to(token_var) - token_var).norm()),
            sample_variance=float(seen["sample_variance"]),
            effective_rank=effective_rank(seen["scatter"], seen["rounding"]),
        )


def effective_rank(covariance: Tensor, rounding: Tensor | float = 0.0) -> float:
    """exp(entropy) of the normalised eigenvalues of a covariance; Roy & Vetterli 2007.

    Args:
        covariance: (D, D), of any scale.
        rounding: a total variance up to this is taken for rounding error.

    Returns:
        1 if all variation is along one direction, D if it is equal along all, 0 if there is none.
    """
    spectrum = torch.linalg.eigvalsh(covariance).clamp(min=0)
    total = spectrum.sum()
    if total <= rounding:
        return 0.0
    share = spectrum / total
    return float(torch.special.entr(share).sum().exp())
