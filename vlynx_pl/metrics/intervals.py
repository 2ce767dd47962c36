"""95 % intervals of figures by the percentile bootstrap (Efron 1979), clustered by clips.

Questions on one clip are answered from the same frames, so whole clips are drawn with replacement,
each with all its questions. A figure is then a ratio of two sums over clips. CIDEr keeps the
document frequencies of the whole split, so that of a question does not change. Figures that are
not means, such as BLEU and METEOR, have no interval.

With fewer than about twenty clips these intervals are too narrow.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlynx_pl.metrics.figures import Mean

DRAWS: Final = 2000
_SEED: Final = 0
_TAILS: Final = (2.5, 97.5)  # percent


class Interval(NamedTuple):
    """Where a figure lies with 95 % confidence."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.2f}, {self.high:.2f}]"


class Difference(NamedTuple):
    """One figure minus another on the same questions, paired by clips."""

    figure: float
    interval: Interval

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval.low > 0 or self.interval.high < 0


def intervals(figures: Mapping[str, float]) -> dict[str, Interval]:
    """Compute the interval of each figure that is a :class:`Mean` over two clips or more."""
    means = {name: mean for name, mean in figures.items() if _has_interval(mean)}
    return dict(zip(means, _tails(_resampled(means.values())), strict=True)) if means else {}


def differences(figures: Mapping[str, float], others: Mapping[str, float]) -> dict[str, Difference]:
    """Compute the difference of each figure to the one of the same name, with its interval.

    Both sets of figures see the same draws, so what is hard for both does not widen the interval.

    Args:
        figures: of one benchmark.
        others: of other answers to the same questions. Figures without an interval are left out.
    """
    names = [
        name
        for name in figures
        if name in others and _has_interval(figures[name]) and _has_interval(others[name])
    ]
    if not names:
        return {}
    drawn = _resampled([each[name] for each in (figures, others) for name in names])
    one, other = np.hsplit(drawn, 2)
    return {
        name: Difference(float(figures[name]) - float(others[name]), interval)
        for name, interval in zip(names, _tails(one - other), strict=True)
    }


def _has_interval(figure: float) -> bool:
    """Whether every group of a mean has two clips, between which the variance can be seen."""
    if not isinstance(figure, Mean):
        return False
    return all(len({value.clip for value in group}) > 1 for group in figure.groups)


def _resampled(means: Iterable[float]) -> NDArray[np.float64]:
    """(DRAWS, figures): each figure in each draw; NaN where its clips were not drawn."""
    of_each = [mean.groups for mean in means if isinstance(mean, Mean)]
    sums, counts = _by_clip([group for groups in of_each for group in groups])
    random = np.random.default_rng(_SEED)
    drawn = np.full((DRAWS, sums.shape[1]), np.nan)
    for row in drawn:
        weights = np.bincount(random.integers(len(sums), size=len(sums)), minlength=len(sums))
        count = weights @ counts
        np.divide(weights @ sums, count, out=row, where=count > 0)
    # A group that was not drawn is left out of the mean over groups.
    ends = np.cumsum([len(groups) for groups in of_each])[:-1]
    return np.stack([_mean(part) for part in np.hsplit(drawn, ends)], 1)


def _by_clip(
    groups: Sequence[Sequence[tuple[str, str, float]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(clips, groups): the sum of the values, and their number."""
    clips = sorted({clip for group in groups for _, clip, _ in group})
    place = {clip: number for number, clip in enumerate(clips)}
    sums = np.zeros((len(clips), len(groups)))
    counts = np.zeros_like(sums)
    for column, group in enumerate(groups):
        rows = [place[clip] for _, clip, _ in group]
        np.add.at(sums[:, column], rows, [value for *_, value in group])
        np.add.at(counts[:, column], rows, 1)
    return sums, counts


def _mean(groups: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the groups (DRAWS, G) that are not NaN; NaN if none is left."""
    there = ~np.isnan(groups)
    mean = np.full(len(groups), np.nan)
    np.divide(np.where(there, groups, 0).sum(1), there.sum(1), out=mean, where=there.any(1))
    return mean


def _tails(drawn: NDArray[np.float64]) -> list[Interval]:
    return [Interval(*map(float, pair)) for pair in np.nanpercentile(drawn, _TAILS, axis=0).T]
