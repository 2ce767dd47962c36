"""PAVE's patch against its description, computed another way."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from vlynx_pl.baselines import TemporalPatch

numbers = st.integers(1, 7)


def patch(side_dim=5, tied=True, trained=True, **sizes) -> TemporalPatch:
    torch.manual_seed(0)
    sizes = {"out_dim": 6, "query_dim": 7, "hidden": 8, "heads": 2, "layers": 2} | sizes
    made = TemporalPatch(side_dim, tied=tied, **sizes)
    if trained:
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.5)
    return made


def inputs(frames, timestamps, side_tokens=2):
    generator = torch.Generator().manual_seed(frames + 100 * timestamps)
    return (
        torch.randn(frames, 3, 7, generator=generator),
        torch.randn(timestamps, side_tokens, 5, generator=generator),
    )


def direct(made: TemporalPatch, queries, side):
    """Token by token and head by head, with loops for everything."""
    frames, timestamps = len(queries), len(side)
    kv = [[made.side(token) for token in timestamp] for timestamp in side]
    if timestamps < frames:
        stretched = []
        for frame in range(frames):
            at = frame * (timestamps - 1) / (frames - 1)
            low = min(int(at), timestamps - 1)
            high, weight = min(low + 1, timestamps - 1), at - low
            pairs = zip(kv[low], kv[high], strict=True)
            stretched.append([(1 - weight) * one + weight * other for one, other in pairs])
        kv, timestamps = stretched, frames
    patched, start = [], 0
    for frame, tokens in enumerate(queries):
        count = timestamps // frames + (frame < timestamps % frames)
        heard = [token for timestamp in kv[start : start + count] for token in timestamp]
        start += count
        x = [made.query(token) for token in tokens]
        for layer in made.layers:
            size = x[0].numel() // layer.heads
            project = layer.key if layer.value is None else layer.value
            attended = []
            for token in x:
                heads = []
                for head in range(layer.heads):
                    own = slice(head * size, (head + 1) * size)
                    query = layer.query(token)[own]
                    logits = torch.stack([layer.key(h)[own] @ query for h in heard])
                    weights = (logits / math.sqrt(size)).softmax(0)
                    pairs = zip(weights, heard, strict=True)
                    heads.append(sum(weight * project(h)[own] for weight, h in pairs))
                attended.append(torch.cat(heads) + token)
            x = [layer.feed(token) + token for token in attended]
        patched.append(torch.stack([made.norm(made.out(token)) for token in x]))
    assert start == timestamps
    return torch.stack(patched)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@given(numbers, numbers)
def test_the_patch_equals_a_loop_over_its_description(tied, frames, timestamps):
    made = patch(tied=tied)
    queries, side = inputs(frames, timestamps)
    assert_close(made(queries, side), direct(made, queries, side), atol=1e-4, rtol=1e-4)


def test_it_adds_nothing_before_training_and_learns_at_the_first_step():
    made = patch(trained=False)
    added = made(*inputs(4, 9))
    assert added.shape == (4, 3, 6) and not added.any()
    (added - 1).square().sum().backward()
    moved = {name for name, parameter in made.named_parameters() if parameter.grad.any()}
    assert moved == {"norm.weight", "norm.bias"}, "the rest follows once the norm is not zero"


@pytest.mark.parametrize("shapes", [((0, 3, 7), (2, 2, 5)), ((2, 3, 7), (0, 2, 5))])
def test_empty_inputs_are_refused(shapes):
    with pytest.raises(ValueError, match="nothing to patch"):
        patch()(*map(torch.zeros, shapes))


@pytest.mark.parametrize(
    ("side", "out", "layers", "size"),
    [
        (1024, 3584, 2, 8_996_352),
        (1024, 896, 3, 8_073_344),
    ],
)
def test_it_is_as_large_as_published(side, out, layers, size):
    with torch.device("meta"):
        own_values = TemporalPatch(side, out, layers=layers, tied=False)
        tied = TemporalPatch(side, out, layers=layers)
    assert sum(p.numel() for p in own_values.parameters()) == size
    unused = layers * (512 * 512 + 512)
    assert sum(p.numel() for p in tied.parameters()) == size - unused
