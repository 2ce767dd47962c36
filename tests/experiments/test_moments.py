"""The training-free maps give raw tokens the moments of video tokens."""

import pytest
import torch
from torch.testing import assert_close

from experiments.paper.moments import Moments, affine
from experiments.paper.study import MAPS


@pytest.fixture(scope="module")
def tokens():
    """Raw and video tokens (20, 30, 6) with moments that differ."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 20, 30, 6, generator=generator, dtype=torch.float64)
    mixed = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    raw, video = drawn @ mixed[:, None]
    return raw, video + 3


def test_moments_are_measured_in_batches(tokens):
    raw, _ = tokens
    found, rows = Moments.of(raw.split(7)), raw.flatten(0, 1)
    assert_close(found.mean, rows.mean(0))
    assert_close(found.covariance, rows.T.cov(correction=0))


@pytest.mark.parametrize("how", MAPS)
def test_a_map_matches_the_moments_that_it_says(how, tokens):
    raw, video = (Moments.of([of]) for of in tokens)
    matrix, offset = affine(how, raw, video)
    mapped = Moments.of([tokens[0] @ matrix.T + offset])
    assert_close(mapped.mean, video.mean)
    wanted = {"shift": raw.covariance.diag()}.get(how, video.covariance.diag())
    assert_close(mapped.covariance.diag(), wanted)
    both = {"transport", "colouring"}
    assert torch.allclose(mapped.covariance, video.covariance) == (how in both)


def test_optimal_transport_changes_tokens_least(tokens):
    raw, video = (Moments.of([of]) for of in tokens)
    moved = {}
    for how in ("transport", "colouring"):
        matrix, offset = affine(how, raw, video)
        moved[how] = (tokens[0] @ matrix.T + offset - tokens[0]).square().mean()
    assert moved["transport"] < moved["colouring"]


def test_a_direction_without_variation_is_not_blown_up():
    flat = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flat[:, 3] = 1.0
    raw, video = Moments.of([flat]), Moments.of([flat[:, [3, 0, 1, 2]]])
    for how in ("transport", "colouring"):
        matrix, _ = affine(how, raw, video)
        assert matrix.abs().max() < 200
