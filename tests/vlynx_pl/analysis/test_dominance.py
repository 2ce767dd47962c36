"""Table B2: the printed figures, its definitions, and what it lacks."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from vlynx_pl.analysis.dominance import dominance
from vlynx_pl.analysis.dominance_figure import draw_dominance
from vlynx_pl.guidance import GuidanceSource, GuidanceStatistics, InterfaceGuidance
from vlynx_pl.io.errors import UserError

PRINTED = """
0.675 0.615 1.243 1.373 0.918 1.210 0.930 1.097 0.951 0.872 0.804 0.746 0.725
0.002 0.003 0.002 0.002 0.003 0.003 0.004 0.003 0.004 0.005 0.004 0.006 0.006
369.0 211.7 816.0 786.2 267.0 427.1 263.6 329.8 219.2 191.2 181.6 131.3 114.9
0.711 0.685 0.646 0.721 0.689 0.633 0.596 0.621 0.673 0.647 0.657 0.651 0.608
0.007 0.007 0.008 0.008 0.008 0.008 0.009 0.010 0.010 0.010 0.010 0.010 0.008
108.2 95.1 85.0 92.3 83.4 75.3 68.1 64.9 67.1 63.2 63.8 63.0 74.8
"""
"""Magnitude, variance and dominance of the keys of 26 layers, in two blocks of 13."""


SOURCE = GuidanceSource("a model", "f00", (64, 64), include_newline=False)


def printed():
    rows = [[float(cell) for cell in line.split()] for line in PRINTED.strip().splitlines()]
    return torch.tensor([rows[i] + rows[i + 3] for i in range(3)], dtype=torch.float64)  # (3, 26)


def guidance(keys, frames=10, spread=None):
    keys, values = keys.float(), keys.clone().float()
    tokens = torch.zeros(8), torch.ones(8)
    return InterfaceGuidance(keys, values, *tokens, frames, 2, SOURCE, spread)


def test_the_variances_of_table_b2_follow_from_its_other_two_rows():
    """Means with the printed magnitude and dominance have the printed variance, in 26 of 26."""
    magnitude, variance, score = printed()
    signs = torch.tensor([1.0, -1.0]).repeat(12).view(1, 2, 3, 4)
    mean = magnitude.view(26, 1, 1, 1) * signs
    apart = (magnitude / score).sqrt().view(26, 1, 1, 1)
    keys = dominance({"one": guidance(mean + apart), "other": guidance(mean - apart)})["keys"]
    assert_close(keys.magnitude, magnitude, atol=1e-6, rtol=0)
    assert_close(keys.dominance, score, atol=0, rtol=1e-4)
    # Magnitude and dominance are rounded as well: 0.608 / 74.8 is 0.0081 ± 0.00001.
    assert_close(keys.sources, variance, atol=5e-4 + 2e-5, rtol=0)
    assert keys.sources.mean() == pytest.approx(0.006, abs=5e-4), "as the text says"


def test_the_reference_is_the_mean_over_all_frames():
    one, other = torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 4.0)
    keys = dominance({"few": guidance(other, 1), "many": guidance(one, 3)})["keys"]
    assert keys.magnitude.tolist() == [1.0]
    assert keys.sources.tolist() == [(9 + 1) / 2]
    assert keys.ratio.tolist() == [1 / 5]


def test_one_guidance_given_twice_has_no_variance():
    same = guidance(torch.randn(2, 3, 4, 5))
    found = dominance({"one": same, "again": same})
    assert found["keys"].dominance.isinf().all() and found["values"].sources.tolist() == [0, 0]
    assert draw_dominance(found)


def test_a_single_guidance_has_no_variance_between_sources():
    keys = dominance({"one": guidance(torch.randn(2, 3, 4, 5))})["keys"]
    assert keys.sources.isnan().all() and keys.dominance.isnan().all()
    assert keys.frames.isnan().all(), "unknown in files without frame_spread"


def test_guidances_of_different_backbones_are_refused_with_both():
    one = guidance(torch.randn(2, 3, 4, 5))
    other = replace(one, source=replace(SOURCE, backbone="another", fingerprint="f01"))
    with pytest.raises(UserError, match=r"a\.st and b\.st .* f00 \(a model\) and f01 \(another\)"):
        dominance({"a.st": one, "b.st": other})
    with pytest.raises(UserError, match=r"their keys are \(2, 3, 4, 5\) and \(1, 3, 4, 5\)"):
        dominance({"a": one, "b": guidance(torch.randn(1, 3, 4, 5))})
    with pytest.raises(UserError, match="no guidance"):
        dominance({})


@pytest.fixture
def spread_videos():
    """Twenty videos of one to three frames; those of a video resemble each other."""
    generator = torch.Generator().manual_seed(3)
    videos = []
    for number in range(20):
        level = torch.randint(0, 120, (1, 1, 3, 1, 1), generator=generator)
        noise = torch.randint(0, 136, (1, 1 + number % 3, 3, 64, 64), generator=generator)
        videos.append((level + noise).to(torch.uint8))
    return videos


@torch.no_grad()
def test_the_spread_is_that_of_all_frames_and_all_videos(backbone, spread_videos):
    """Against two passes over stored keys and values."""
    heard = {"k_proj": [], "v_proj": []}
    layer = backbone.attention_layers()[1]
    handles = [
        layer.get_submodule(name).register_forward_hook(
            lambda _, __, out, of=of: of.append(out.double())
        )
        for name, of in heard.items()
    ]
    statistics = GuidanceStatistics(backbone)
    for video in spread_videos:
        statistics.update(video)
    for handle in handles:
        handle.remove()
    spread = statistics.guidance().frame_spread
    for part, videos in enumerate(heard.values()):
        every = torch.cat(videos).flatten(1)
        frames = every.var(0, correction=0).mean().item()
        means = torch.cat([v.mean(0).flatten().expand(len(v), -1) for v in videos])
        between = (means - every.mean(0)).square().mean().item()
        assert spread[part, 0, 1] == pytest.approx(frames, rel=1e-5)
        assert spread[part, 1, 1] == pytest.approx(between, rel=1e-5)
        assert 0.1 * frames < between < 0.98 * frames


def test_shards_merge_to_the_spread_of_one_pass(backbone, spread_videos):
    whole, merged = GuidanceStatistics(backbone), GuidanceStatistics(backbone)
    for shard in (spread_videos[:7], spread_videos[7:]):
        part = GuidanceStatistics(backbone)
        for video in shard:
            part.update(video)
            whole.update(video)
        merged.merge_state(dict(part.metric_state))
    wanted = whole.guidance().frame_spread
    assert_close(merged.guidance().frame_spread, wanted, atol=0, rtol=1e-9)


def test_a_file_keeps_the_spread_and_an_older_one_has_none(tmp_path):
    spread = torch.rand(2, 2, 2, dtype=torch.float64)
    made = guidance(torch.randn(2, 3, 4, 5), spread=spread)
    made.save(tmp_path / "new")
    replace(made, frame_spread=None).save(tmp_path / "old")
    new, old = (InterfaceGuidance.load(tmp_path / name) for name in ("new", "old"))
    assert torch.equal(new.frame_spread, spread) and old.frame_spread is None
    assert new.fingerprint == old.fingerprint
    keys = dominance({"new": new})["keys"]
    assert torch.equal(keys.frames, spread[0, 0]) and torch.equal(keys.videos, spread[0, 1])
    assert torch.equal(keys.chance, spread[0, 0] / 10)


@pytest.mark.parametrize("note", ["[[[1]]]", "[[[-1, 1], [1, 1]], [[1, 1], [1, 1]]]", "{}", "["])
def test_a_damaged_spread_is_an_error(tmp_path, note, monkeypatch):
    monkeypatch.setattr("vlynx_pl.guidance.json.dumps", lambda *_, **__: note)
    made = guidance(torch.randn(2, 3, 4, 5), spread=torch.rand(2, 2, 2))
    made.save(tmp_path / "damaged")
    monkeypatch.undo()
    with pytest.raises(UserError, match="cannot be used"):
        InterfaceGuidance.load(tmp_path / "damaged")
