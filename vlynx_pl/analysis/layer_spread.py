"""Where tokens lose what their frames differ in: the variance between frames, by vision layer."""

import warnings
from typing import Any, Final

import torch
from torch import Tensor
from torchmetrics import Metric

from vlynx_pl.attention import AttentionCall
from vlynx_pl.backbones.base import VideoBackbone

PARTS: Final = ("keys", "values", "responses")
"""The parts of attention, in the order of :meth:`LayerSpread.spread`."""

_POSITIONS: Final = 64  # at most, evenly spaced, so that a large encoder needs no gigabytes


class LayerSpread(Metric):
    """Accumulates variances over batches and process ranks, as a listener to the vision layers.

    Args:
        backbone: whose attention is listened to with :func:`vlynx_pl.attention.listen`.
    """

    full_state_update = False
    count: Tensor
    sums: Tensor
    squares: Tensor

    def __init__(self, backbone: VideoBackbone) -> None:
        super().__init__()
        layers: list[Any] = [*backbone.attention_layers()]
        positions = backbone.positions
        even = torch.linspace(0, positions - 1, min(_POSITIONS, positions))
        self.positions = even.round().long()
        self.channels = layers[0].num_heads * layers[0].head_dim
        shape = (len(PARTS), len(layers), len(self.positions) * self.channels)
        self.add_state("count", torch.zeros(len(layers), dtype=torch.float64), "sum")
        self.add_state("sums", torch.zeros(shape, dtype=torch.float64), "sum")
        self.add_state("squares", torch.zeros(shape[:2], dtype=torch.float64), "sum")

    def update(self, call: AttentionCall) -> None:
        """Add the F frames of a layer's call."""
        places = self.positions.to(call.context.device)
        by_head = (part[:, :, places].transpose(1, 2).flatten(2) for part in (call.key, call.value))
        rows = torch.stack([*by_head, call.context[:, places]]).flatten(2).double()  # (3, F, …)
        self.count[call.layer] += rows.shape[1]
        self.sums[:, call.layer] += rows.sum(1)
        self.squares[:, call.layer] += rows.square().sum((1, 2))

    def compute(self) -> Tensor:
        """Variances over everything seen so far, on all ranks."""
        mean = self.sums / self.count[:, None]
        whole = self.squares / self.count - mean.square().sum(2)
        return whole.clamp(min=0) / len(self.positions)

    def spread(self) -> Tensor:
        """Variance between frames at a position, summed over channels: (3, L) float64, on the CPU.

        It is a mean over positions, of the keys, the values and the responses of attention, before
        its output projection.
        """
        with warnings.catch_warnings():
            # This rank may not have seen any.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            found: Tensor = self.compute()
        return found.cpu()
