"""Whether streams can be told apart, and belong together, on rows whose answer is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlynx_pl.analysis.landing import linear_cka, own_video_ranks, told_apart
from vlynx_pl.analysis.samples import Sample, TokenSample, paired


def random_rows(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample_of(tokens, size=2000, name="clip"):
    """Tokens (C, T, N, D) of C clips."""
    kept = TokenSample(tokens.shape[-1], size)
    for number, clip in enumerate(tokens):
        kept.update(f"{name} {number}", clip)
    return kept.sample()


def test_a_shifted_stream_is_told_apart_and_two_halves_of_one_are_not():
    tokens = random_rows(80, 2, 8, 6) + 0.3 * random_rows(80, 1, 1, 6, seed=1)
    stream = sample_of(tokens)
    assert told_apart(*stream.halves()) == pytest.approx(0.5, abs=0.05)
    assert told_apart(sample_of(tokens + 3), stream) > 0.95
    assert told_apart(stream, stream) == 0.5


def test_the_probe_is_asked_about_clips_that_it_has_not_seen():
    """Each clip is one point, which a probe could only learn by heart."""
    tokens = random_rows(40, 1, 1, 300).expand(-1, 2, 8, -1)
    assert told_apart(*sample_of(tokens).halves()) < 0.75


def test_the_probe_weighs_streams_of_different_sizes_equally():
    many, few = random_rows(80, 1, 8, 6), random_rows(8, 1, 8, 6, seed=1)
    assert told_apart(sample_of(many), sample_of(few)) == pytest.approx(0.5, abs=0.12)


def test_one_clip_cannot_be_told_apart():
    one = sample_of(random_rows(1, 2, 4, 6))
    assert math.isnan(told_apart(one, one))


def test_the_sample_does_not_depend_on_order_and_process_ranks():
    tokens = random_rows(9, 2, 8, 6)
    whole = sample_of(tokens, size=50)
    assert len(whole.rows) == 50
    ranks = TokenSample(6, 50), TokenSample(6, 50), TokenSample(6, 50)
    for number in torch.randperm(9).tolist():
        ranks[number % 2].update(f"clip {number}", tokens[number])
    ranks[0].merge_state(ranks[1])
    ranks[0].merge_state(ranks[2])  # which has seen nothing
    for found, wanted in zip(ranks[0].sample(), whole, strict=True):
        assert torch.equal(found, wanted)
    known = tokens.flatten(0, 2).tolist()
    assert all(row in known for row in whole.rows.tolist())


def test_fewer_tokens_than_fit_are_all_kept():
    tokens = random_rows(3, 2, 4, 6)
    rows = sample_of(tokens).rows
    assert sorted(rows.tolist()) == sorted(tokens.flatten(0, 2).tolist())


def test_streams_of_the_same_clips_are_paired_by_place():
    tokens = random_rows(9, 2, 8, 6)
    one, other = paired(sample_of(tokens, 50), sample_of(tokens + 1, 50))
    assert len(one) == 50
    torch.testing.assert_close(one + 1, other)
    one, other = paired(sample_of(tokens, 50), sample_of(tokens[:, :1], 50))
    assert len(one) == len(other) == 0


def test_the_own_video_of_identical_streams_is_found_first():
    rows = random_rows(30, 8)
    assert own_video_ranks(rows, 2 * rows + 5).tolist() == [1] * 30
    assert own_video_ranks(rows, -rows).float().mean() > 15
    by_chance = own_video_ranks(random_rows(400, 8), random_rows(400, 8, seed=1)).float()
    assert by_chance.mean() == pytest.approx(200, abs=20)


@given(st.integers(0, 1000), st.integers(2, 40))
def test_linear_cka_is_1_for_a_rotation_and_0_for_independent_rows(seed, channels):
    rows = random_rows(60, channels, seed=seed).double()
    rotation, _ = torch.linalg.qr(random_rows(channels, channels, seed=seed + 1).double())
    assert linear_cka(rows, 3 * rows @ rotation + 1) == pytest.approx(1, abs=1e-9)
    assert abs(linear_cka(rows, random_rows(60, channels, seed=seed + 2))) < 0.35


def test_linear_cka_of_few_independent_rows_of_many_channels_is_0():
    found = linear_cka(random_rows(200, 1000), random_rows(200, 1000, seed=1))
    assert found == pytest.approx(0, abs=0.02)
    assert math.isnan(linear_cka(random_rows(3, 8), random_rows(3, 8)))


def test_halves_divide_clips():
    sample = Sample(
        random_rows(6, 2), torch.tensor([5, 5, 7, 7, 9, 9]), torch.arange(6, dtype=torch.float64)
    )
    even, odd = sample.halves()
    assert even.clips.tolist() == [5, 5, 9, 9] and odd.clips.tolist() == [7, 7]
    assert torch.equal(odd.rows, sample.rows[2:4])
