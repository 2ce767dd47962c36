"""Whether a modality's tokens land among those of video, by measures that moments cannot fake.

Alignment matches means and variances. These measures need no labels, and each has a reference: the
probe that of two halves of the video, retrieval chance, and linear CKA the modality before
alignment.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlynx_pl.analysis.layer_spread import PARTS
from vlynx_pl.analysis.names import Vocabulary, entropy, name_distance, names
from vlynx_pl.analysis.samples import Sample

_RIDGE: Final = 0.01  # times the variance of a standardised channel
_NAMES: Final = 10  # of each stream


def landing(
    words: Vocabulary, samples: Mapping[str, Sample], spreads: Mapping[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Describe streams beside video, as plain data.

    Args:
        words: of the backbone.
        samples: of ``video``, and of other streams.
        spreads: (3, L) of the same, see :meth:`vlynx_pl.analysis.layer_spread.LayerSpread.spread`.

    Returns:
        For each stream: ``told_apart`` from video, which for ``video`` is that of its two halves,
        or None; the commonest ``names``, and entropy and distance from video's of all;
        ``variance_per_layer`` of each part of attention, as a share of video's.
    """
    named = {stream: names(sample.rows, words) for stream, sample in samples.items()}
    video = samples["video"]
    found = {}
    for stream, sample in samples.items():
        apart = told_apart(*video.halves()) if stream == "video" else told_apart(sample, video)
        shares = (spreads[stream] / spreads["video"]).nan_to_num(0.0, 0.0)
        found[stream] = {
            "told_apart": apart if math.isfinite(apart) else None,
            "names": dict([*named[stream].items()][:_NAMES]),
            "name_entropy": entropy(named[stream]),
            "name_distance": name_distance(named[stream], named["video"]),
            "variance_per_layer": dict(zip(PARTS, shares.tolist(), strict=True)),
        }
    return found


def told_apart(one: Sample, other: Sample) -> float:
    """How often a linear probe says rightly which of two streams a token is of.

    It is a ridge regression on standardised channels, trained on half of each stream's clips. Both
    streams weigh the same.

    Returns:
        Share of the other half's tokens that are told rightly, 0.5 by chance; NaN if a stream has
        fewer than two clips.
    """
    (learnt, asked), (others_learnt, others_asked) = one.halves(), other.halves()
    train = [half.rows.double() for half in (learnt, others_learnt)]
    test = [half.rows.double() for half in (asked, others_asked)]
    if not all(map(len, train + test)):
        return float("nan")
    mean = (train[0].mean(0) + train[1].mean(0)) / 2
    first, second = (rows - mean for rows in train)
    scale = ((first.square().mean(0) + second.square().mean(0)) / 2).sqrt()
    scale = scale.where(scale > 0, 1.0)
    first, second = first / scale, second / scale
    covariance = (first.T @ first / len(first) + second.T @ second / len(second)) / 2
    covariance.diagonal().add_(_RIDGE)
    direction = torch.linalg.solve(covariance, first.mean(0) - second.mean(0)) / scale
    first, second = ((rows - mean) @ direction for rows in test)
    right = (first.sign().mean() - second.sign().mean()) / 2  # from -1 to 1
    return float(1 + right) / 2


def percent(share: float | None) -> str:
    """Format a share of tokens or clips; None, which is unknown, is a dash."""
    return "–" if share is None else f"{share:.1%}"


def own_video_ranks(modality: Tensor, video: Tensor) -> Tensor:
    """Find each clip's own video by the cosine of centred means.

    Args:
        modality: (C, D), the mean token of each clip.
        video: (C, D) of the same clips.

    Returns:
        (C,) rank of the own video among all, from 1.
    """
    one, other = (normalize(rows - rows.mean(0)) for rows in (modality.double(), video.double()))
    alike = one @ other.T
    return 1 + (alike > alike.diagonal()[:, None]).sum(1)


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Linear CKA of paired rows (Kornblith et al. 2019), with the unbiased estimate of HSIC.

    The usual estimate grows with D / R even for independent rows. This one (Song et al. 2012)
    is about 0 for them, and may be slightly negative.

    Args:
        one: (R, D).
        other: (R, D') of the same clips and places.

    Returns:
        1 if one is a rotation of the other; NaN for fewer than four rows.
    """
    if len(one) < 4:
        return float("nan")
    alike = [rows.double() @ rows.double().T for rows in (one - one.mean(0), other - other.mean(0))]
    for each in alike:
        each.fill_diagonal_(0)
    first, second = alike
    own = _dependence(first, first) * _dependence(second, second)
    return float(_dependence(first, second) / own.sqrt())


def _dependence(one: Tensor, other: Tensor) -> Tensor:
    """HSIC of two matrices of similarities (R, R) with zero diagonals, times a constant."""
    count = len(one)
    sums = one.sum() * other.sum() / ((count - 1) * (count - 2))
    return (one * other).sum() + sums - 2 / (count - 2) * one.sum(0) @ other.sum(0)
