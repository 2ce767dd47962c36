"""The variance between frames in each vision layer, against one computed from all of them."""

import torch
from torch.testing import assert_close

from vlynx_pl.analysis.layer_spread import LayerSpread
from vlynx_pl.attention import listen


def seen(backbone, batches, *spreads):
    layers, calls = backbone.attention_layers(), []
    with torch.no_grad(), listen(layers, calls.append, backbone.positions):
        for number, frames in enumerate(batches):
            spread = spreads[number % len(spreads)]
            with listen(layers, spread.update, backbone.positions):
                backbone.encode(frames)
    return calls


def test_it_equals_the_variance_of_all_frames_in_any_batches_and_ranks(backbone, videos):
    one, *ranks = (LayerSpread(backbone) for _ in range(3))
    calls = seen(backbone, [videos], one)
    seen(backbone, [videos[:1], videos[1:, :2], videos[1:, 2:]], *ranks)
    ranks[0].merge_state(ranks[1])
    found = one.spread()
    assert_close(ranks[0].spread(), found)
    for call in calls:
        by_head = [part.transpose(1, 2).flatten(2) for part in (call.key, call.value)]
        for part, rows in enumerate([*by_head, call.context]):
            wanted = rows.double().var(0, correction=0).sum(1).mean()
            assert_close(found[part, call.layer], wanted)


def test_equal_frames_have_no_variance(backbone, videos):
    spread = LayerSpread(backbone)
    seen(backbone, [videos[:, :1].expand(-1, 2, -1, -1, -1)[:1]], spread)
    assert spread.spread().max() < 1e-9
    assert spread.spread().shape == (3, len(backbone.attention_layers()))


def test_a_large_encoder_is_measured_at_some_positions(backbone, videos, monkeypatch):
    monkeypatch.setattr("vlynx_pl.analysis.layer_spread._POSITIONS", 4)
    spread = LayerSpread(backbone)
    assert spread.positions.tolist() == [0, 21, 42, 63]
    calls = seen(backbone, [videos], spread)
    wanted = calls[0].context[:, spread.positions].double().var(0, correction=0).sum(1).mean()
    assert_close(spread.spread()[2, 0], wanted)
