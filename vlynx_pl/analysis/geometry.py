"""Geometry of a stream at the LLM's input (paper, Table B1 and appendix B.1), from sums alone.

Rows are what the LLM is given: tokens after projector and pooling, without a newline, or embeddings
of words. With u = x/‖x‖, all figures follow from the count, Σu, Σx and Σ‖x‖, so n rows cost O(nD)
and no n × n matrix, and sums of batches and process ranks add up.
"""

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics import Metric


@dataclass(frozen=True)
class Geometry:
    """Directions and lengths of the n rows of a stream."""

    count: int  # n
    unit_mean: Tensor = field(repr=False)  # (D,) float64, mean of x/‖x‖
    mean: Tensor = field(repr=False)  # (D,) float64, mean of x
    length: float  # mean of ‖x‖

    @property
    def length_of_mean(self) -> float:
        """‖mean of x‖; rows that point in all directions have a short mean of long rows."""
        return float(self.mean.norm())

    @property
    def distance_within(self) -> float:
        """Mean cosine distance of all pairs of two different rows; NaN for a single row."""
        if self.count < 2:
            warnings.warn("a stream of one row has no pairs, so no distance within", stacklevel=2)
            return float("nan")
        pairs = self.count * self.unit_mean.square().sum() - 1  # (‖Σu‖² − n)/n
        return float(1 - pairs / (self.count - 1))


def distance(one: Geometry, other: Geometry) -> float:
    """Mean cosine distance of all pairs of a row of each stream, from 0 to 2."""
    return float(1 - one.unit_mean @ other.unit_mean)


def gap_per_vector(one: Geometry, other: Geometry) -> float:
    """Distance of the centroids of the unit vectors, from 0 to 2.

    This is the modality gap in the code of Liang et al. (NeurIPS 2022,
    Weixin-Liang/Modality-Gap, get_gap_stats.ipynb).
    """
    return float((one.unit_mean - other.unit_mean).norm())


def gap_per_stream(one: Geometry, other: Geometry) -> float:
    """Distance of the means of the rows, each divided by its stream's mean length.

    Table B1 prints values that only this definition fits; see docs/analysis.md. It differs from the
    gap per vector where short and long rows point in different directions.
    """
    return float((one.mean / one.length - other.mean / other.length).norm())


class StreamGeometry(Metric):
    """Accumulates a :class:`Geometry` over batches and process ranks.

    Args:
        channels: D.
    """

    full_state_update = False
    count: Tensor
    unit_sum: Tensor
    row_sum: Tensor
    length_sum: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add_state("count", torch.tensor(0), "sum")
        self.add_state("unit_sum", torch.zeros(channels, dtype=torch.float64), "sum")
        self.add_state("row_sum", torch.zeros(channels, dtype=torch.float64), "sum")
        self.add_state("length_sum", torch.tensor(0.0, dtype=torch.float64), "sum")

    def update(self, rows: Tensor) -> None:
        """Add rows (R, D) of any type; raise ValueError if one is zero or not finite."""
        rows = rows.double()
        lengths = rows.norm(dim=1)
        if not ((lengths > 0) & lengths.isfinite()).all():
            raise ValueError("a row is zero or not finite, so it has no direction")
        self.count += len(rows)
        self.unit_sum += (rows / lengths[:, None]).sum(0)
        self.row_sum += rows.sum(0)
        self.length_sum += lengths.sum()

    def compute(self) -> dict[str, Tensor]:
        """Sums over everything seen so far, on all ranks."""
        return {
            "count": self.count,
            "unit_sum": self.unit_sum,
            "row_sum": self.row_sum,
            "length_sum": self.length_sum,
        }

    def geometry(self) -> Geometry:
        """The geometry of everything seen so far, on all ranks; raise ValueError if nothing was."""
        with warnings.catch_warnings():
            # This rank may not have seen any.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            seen = {name: total.cpu() for name, total in self.compute().items()}
        if (count := int(seen["count"])) == 0:
            raise ValueError("no rows were given")
        length = float(seen["length_sum"]) / count
        return Geometry(count, seen["unit_sum"] / count, seen["row_sum"] / count, length)


def geometry(rows: Tensor) -> Geometry:
    """The geometry of rows (R, D); see :class:`StreamGeometry`."""
    found = StreamGeometry(rows.shape[1])
    found.update(rows)
    return found.geometry()
