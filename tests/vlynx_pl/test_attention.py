import pytest
import torch
from torch.testing import assert_close

from vlynx_pl.attention import AttentionCall, listen


@torch.no_grad()
def test_the_listener_hears_the_layers_own_projections(backbone, videos):
    layers = backbone.attention_layers()
    inputs, calls = {}, []
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, i=i: inputs.update({i: [*args, *kwargs.values()][0]}),
            with_kwargs=True,
        )
        for i, layer in enumerate(layers)
    ]
    with listen(layers, calls.append, backbone.positions):
        backbone.encode(videos)
    for handle in handles:
        handle.remove()
    assert [call.layer for call in calls] == list(range(len(layers)))
    for call, layer in zip(calls, layers, strict=True):
        hidden = inputs[call.layer]  # (F, S, C)
        for heard, projection in (
            (call.query, layer.q_proj),
            (call.key, layer.k_proj),
            (call.value, layer.v_proj),
        ):
            wanted = projection(hidden).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
            assert_close(heard, wanted)
        weights = (call.query @ call.key.mT / layer.head_dim**0.5).softmax(-1)
        assert_close(call.context, (weights @ call.value).transpose(1, 2).flatten(2))
        assert_close(call.output, layer.out_proj(call.context))


@torch.no_grad()
def test_nothing_is_projected_twice(backbone, videos):
    count = 0

    def add(*_):
        nonlocal count
        count += 1

    layer = backbone.attention_layers()[0]
    for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj):
        projection.register_forward_hook(add)
    with listen(backbone.attention_layers(), lambda call: None, backbone.positions):
        backbone.encode(videos)
    assert count == 4


@torch.no_grad()
def test_listening_changes_no_token_and_ends_with_its_context(backbone, videos):
    silent = backbone.encode(videos)
    calls: list[AttentionCall] = []
    with listen(backbone.attention_layers(), calls.append, backbone.positions):
        assert torch.equal(backbone.encode(videos), silent)
    heard = len(calls)
    backbone.encode(videos)
    assert len(calls) == heard == len(backbone.attention_layers())


def test_another_attention_implementation_is_an_error(backbone, videos):
    backbone.model.set_attn_implementation({"vision_config": "eager"})
    with (
        pytest.raises(RuntimeError, match="layer 0 ran without"),
        listen(backbone.attention_layers(), lambda call: None, backbone.positions),
    ):
        backbone.encode(videos)
