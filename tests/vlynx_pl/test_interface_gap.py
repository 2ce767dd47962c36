import pytest
import torch
from torch.testing import assert_close

from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.interface_gap import InterfaceGapMeter, effective_rank


@pytest.fixture
def guidance(backbone, videos):
    return estimate_guidance(backbone, [videos])


def test_effective_rank_counts_equal_directions():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.diag(torch.tensor([1.0, 1, 0, 0]))) == pytest.approx(2)
    assert effective_rank(torch.ones(5, 5)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(3, 3)) == 0


@pytest.mark.parametrize("inputs", [160, 96], ids=["inputs alone", "with deep features"])
def test_the_gap_is_that_of_all_tokens_at_once(guidance, inputs):
    channels = len(guidance.token_mean)
    tokens = torch.randn(10, 3, 16, channels, dtype=torch.float64)
    gaps = torch.rand(10, len(guidance.keys))
    meter = InterfaceGapMeter(guidance, 16, inputs)
    for part, gap in zip(tokens, gaps, strict=True):
        meter.update(part[None], gap)
    found = meter.gap()
    rows = tokens.flatten(0, 2)
    assert_close(found.attention, gaps.double().mean(0))
    assert_close(found.token_mean, rows.mean(0))
    assert_close(found.token_var, rows.var(0, correction=0))
    frames = tokens.flatten(0, 1)
    assert found.sample_variance == pytest.approx(frames.var(0, correction=0).sum(-1).mean().item())
    centred = (frames - frames.mean(0)).flatten(0, 1)[:, :inputs]
    assert found.effective_rank == pytest.approx(effective_rank(centred.T @ centred), rel=1e-6)
    distance = (guidance.token_mean - rows.mean(0)).norm().item()
    assert found.mean_distance == pytest.approx(distance, rel=1e-5)
    assert found.stat == found.mean_distance + found.var_distance


def test_tokens_that_ignore_their_input_have_no_health(guidance):
    """However different the positions are among themselves."""
    tokens = torch.randn(1, 1, 16, len(guidance.token_mean)).expand(4, 3, -1, -1)
    meter = InterfaceGapMeter(guidance, 16, 160)
    meter.update(tokens, torch.zeros(len(guidance.keys)))
    assert meter.gap().sample_variance == pytest.approx(0, abs=1e-9)
    assert meter.gap().effective_rank == 0


def test_ranks_merge(guidance):
    channels = len(guidance.token_mean)
    tokens, gaps = torch.randn(6, 2, 16, channels), torch.rand(2, len(guidance.keys))
    whole, one, other = (InterfaceGapMeter(guidance, 16, 160) for _ in range(3))
    for meters, part, gap in ((one, tokens[:2], gaps[0]), (other, tokens[2:], gaps[1])):
        meters.update(part, gap)
        whole.update(part, gap)
    one.merge_state(other)
    assert one.gap().effective_rank == pytest.approx(whole.gap().effective_rank, rel=1e-9)
    assert_close(one.gap().attention, whole.gap().attention)
