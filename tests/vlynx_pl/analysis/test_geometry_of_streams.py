"""Table B1 from sums, against pairs computed one by one."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from vlynx_pl.analysis.geometry import (
    StreamGeometry,
    distance,
    gap_per_stream,
    gap_per_vector,
    geometry,
)


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(50, 8, dtype=torch.float64, generator=generator) + 1


def pairwise(one, other):
    return 1 - cosine_similarity(one[:, None], other[None], dim=2)  # (n, m)


def test_distances_are_those_of_all_pairs(rows):
    one, other = rows[:30], rows[30:]
    apart = pairwise(one, one)
    within = (apart.sum() - apart.trace()) / (30 * 29)
    assert geometry(one).distance_within == pytest.approx(within.item(), abs=1e-12)
    between = distance(geometry(one), geometry(other))
    assert between == pytest.approx(pairwise(one, other).mean().item(), abs=1e-12)


def test_lengths_are_of_the_mean_and_the_mean_of_lengths(rows):
    found = geometry(rows)
    assert found.count == 50
    assert found.length_of_mean == pytest.approx(rows.mean(0).norm().item(), abs=1e-12)
    assert found.length == pytest.approx(rows.norm(dim=1).mean().item(), abs=1e-12)


def test_batches_and_process_ranks_add_up(rows):
    ranks = StreamGeometry(8), StreamGeometry(8)
    for number, part in enumerate(rows.split([1, 9, 40])):
        ranks[number % 2].update(part)
    ranks[0].merge_state(ranks[1])
    found, whole = ranks[0].geometry(), geometry(rows)
    assert found.count == whole.count == 50
    assert found.distance_within == pytest.approx(whole.distance_within, abs=1e-12)
    assert gap_per_vector(found, whole) == pytest.approx(0, abs=1e-12)
    assert gap_per_stream(found, whole) == pytest.approx(0, abs=1e-12)


def test_half_precision_is_summed_in_float64(rows):
    low = rows.bfloat16()
    assert geometry(low).distance_within == geometry(low.double()).distance_within


def test_one_row_has_no_distance_within(rows):
    with pytest.warns(UserWarning, match="one row has no pairs"):
        assert math.isnan(geometry(rows[:1]).distance_within)


def test_rows_without_a_direction_are_refused(rows):
    with pytest.raises(ValueError, match="zero or not finite"):
        geometry(rows.index_fill(0, torch.tensor([3]), 0.0))
    with pytest.raises(ValueError, match="zero or not finite"):
        geometry(rows.index_fill(0, torch.tensor([3]), float("nan")))
    with pytest.raises(ValueError, match="no rows"):
        geometry(rows[:0])


def test_the_gap_per_vector_is_between_centroids_of_directions():
    one = torch.tensor([[2.0, 0.0]])
    for other, gap in ((one, 0), (-one, 2), (torch.tensor([[0.0, 5.0]]), math.sqrt(2))):
        assert gap_per_vector(geometry(one), geometry(other)) == pytest.approx(gap, abs=1e-12)


def test_neither_gap_depends_on_a_streams_scale(rows):
    one, other = geometry(rows[:20]), rows[20:]
    for gap in (gap_per_vector, gap_per_stream):
        assert gap(one, geometry(7 * other)) == pytest.approx(gap(one, geometry(other)))


def test_both_gaps_agree_if_all_lengths_are_equal(rows):
    one, other = (geometry(4 * normalize(part)) for part in rows.split(25))
    assert gap_per_vector(one, other) == pytest.approx(gap_per_stream(one, other), abs=1e-12)


def cloud(count, direction, towards, length):
    """Rows of one length whose unit vectors have the mean ``towards`` · ``direction``."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, len(direction), dtype=torch.float64, generator=generator)
    noise = normalize(noise - (noise @ direction)[:, None] * direction)
    return length * (towards * direction + math.sqrt(1 - towards**2) * noise)


def test_the_gaps_differ_where_short_rows_point_one_way_and_long_ones_do_not():
    """Words and frames with the distances and the norm of LLaVA-OneVision-0.5B in Table B1."""
    axes = torch.eye(896, dtype=torch.float64)
    words = torch.cat([cloud(3333, axes[0], 0.95, 0.11), cloud(6667, axes[0], 0.334, 0.695)])
    oblique = normalize(0.078 * axes[0] + axes[1], dim=0)
    vocabulary, frames = geometry(words), geometry(cloud(2000, oblique, math.sqrt(0.9), 27.0))
    assert vocabulary.distance_within == pytest.approx(0.709, abs=0.01)
    assert vocabulary.length_of_mean == pytest.approx(0.190, abs=0.01)
    assert frames.distance_within == pytest.approx(0.10, abs=0.01)
    assert distance(vocabulary, frames) == pytest.approx(0.96, abs=0.01)
    assert gap_per_vector(vocabulary, frames) == pytest.approx(1.055, abs=0.01)
    assert gap_per_stream(vocabulary, frames) == pytest.approx(0.995, abs=0.01)
