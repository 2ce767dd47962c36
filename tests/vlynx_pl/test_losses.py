from contextlib import suppress
from functools import partial

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from vlynx_pl.losses import (
    attention_response_loss,
    mean_of_all,
    reference_response,
    token_moments,
    token_statistics_loss,
)

sizes = st.integers(1, 4)
seeds = st.integers(0, 100)


def together(work, *parts):
    """What ``work(part, total)`` gives to each of several ranks, which meet in ``total``."""
    wholes = []
    while True:
        handed, found = [], []
        for part in parts:
            with suppress(LookupError):
                found.append(work(part, partial(known_or_handed, iter(wholes), handed)))
        if len(found) == len(parts):
            return found
        wholes.append(sum(handed))


def known_or_handed(wholes, handed, part):
    for whole in wholes:
        return whole
    handed.append(part)
    raise LookupError("the others have not come to this sum yet")


def numpy_response(queries, keys, values):
    """Equation 5 written as loops."""
    frames, heads, count, channels = queries.shape
    response = np.zeros((frames, count, heads * channels))
    for f in range(frames):
        for h in range(heads):
            for q in range(count):
                scores = np.exp(keys[h] @ queries[f, h, q] / np.sqrt(channels))
                mixed = (scores / scores.sum()) @ values[h]
                response[f, q, h * channels : (h + 1) * channels] = mixed
    return response


@settings(max_examples=30)
@given(sizes, sizes, sizes, sizes, sizes, st.integers(0, 100))
def test_the_loss_is_the_papers_equations(frames, heads, count, positions, channels, seed):
    random = np.random.default_rng(seed)
    queries = random.normal(size=(frames, heads, count, channels))
    keys, values = random.normal(size=(2, heads, positions, channels))
    response = random.normal(size=(frames, count, heads * channels))
    wanted = numpy_response(queries, keys, values)
    tensors = [torch.tensor(array) for array in (queries, keys, values)]
    assert_close(reference_response(*tensors), torch.tensor(wanted))
    loss = attention_response_loss(tensors[0], torch.tensor(response), tensors[1], tensors[2])
    assert_close(
        loss.double(), torch.tensor(np.abs(response - wanted).mean()), rtol=1e-5, atol=1e-6
    )
    weight = torch.tensor(random.normal(size=(heads * channels, 3)))
    projected = attention_response_loss(
        tensors[0],
        torch.tensor(response) @ weight,
        tensors[1],
        tensors[2],
        project=lambda context: context @ weight,
    )
    wanted_projected = np.abs((response - wanted) @ weight.numpy()).mean()
    assert_close(projected.double(), torch.tensor(wanted_projected), rtol=1e-4, atol=1e-5)


def test_detaching_stops_the_gradient_of_the_reference_alone():
    queries = torch.randn(1, 2, 3, 4, requires_grad=True)
    response = torch.randn(1, 3, 8, requires_grad=True)
    keys, values = torch.randn(2, 2, 5, 4)
    attention_response_loss(queries, response, keys, values, detach_reference=True).backward()
    assert queries.grad is None and response.grad is not None
    attention_response_loss(queries, response, keys, values).backward()
    assert queries.grad is not None and queries.grad.abs().sum() > 0


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 100))
def test_token_statistics_are_unsquared_norms_of_population_moments(batch, count, channels, seed):
    random = np.random.default_rng(seed)
    tokens = random.normal(size=(batch, count, channels)).astype(np.float32)
    mean, variance = random.normal(size=(2, channels)).astype(np.float32)
    rows = tokens.reshape(-1, channels).astype(np.float64)
    wanted = np.linalg.norm(mean - rows.mean(0)) + np.linalg.norm(variance - rows.var(0))
    loss = token_statistics_loss(torch.tensor(tokens), torch.tensor(mean), torch.tensor(variance))
    assert_close(loss, torch.tensor(wanted, dtype=torch.float32), rtol=1e-4, atol=1e-4)


def test_statistics_of_the_reference_itself_cost_nothing():
    tokens = torch.randn(4, 5, 6)
    assert token_statistics_loss(tokens, *token_moments(tokens)) == 0


def test_black_frames_have_a_finite_loss_and_gradient():
    tokens = torch.zeros(2, 3, 4, requires_grad=True)
    token_statistics_loss(tokens, torch.ones(4), torch.ones(4)).backward()
    assert tokens.grad is not None and tokens.grad.isfinite().all()


def test_half_precision_tokens_are_reduced_in_float32():
    tokens = (torch.randn(64, 3) * 0.01 + 100).bfloat16()
    mean, variance = token_moments(tokens)
    assert mean.dtype == variance.dtype == torch.float32
    assert_close(mean, tokens.double().mean(0).float())


@settings(max_examples=20)
@given(st.integers(1, 6), sizes, st.integers(0, 6), seeds)
def test_a_mean_is_of_all_ranks_rows_and_so_is_its_gradient(count, channels, cut, seed):
    rows = np.random.default_rng(seed).normal(size=(count, channels, 2))
    whole = torch.tensor(rows, requires_grad=True)
    assert_close(mean_of_all(whole), torch.tensor(rows.mean(0)))
    for found in together(mean_of_all, whole[:cut], whole[cut:]):
        assert_close(found, torch.tensor(rows.mean(0)))
    (gradient,) = torch.autograd.grad(found.sum(), whole)
    assert_close(gradient, torch.full_like(whole, 1 / count))


@settings(max_examples=20)
@given(st.integers(2, 6), sizes, st.integers(0, 6), st.floats(1e-2, 1e2), seeds)
def test_relative_statistics_are_in_units_of_the_guidances_spread(count, channels, cut, c, seed):
    random = np.random.default_rng(seed)
    tokens = random.normal(size=(count, 3, channels))
    mean, variance = random.normal(size=channels), random.uniform(0.1, 2, size=channels)
    rows = tokens.reshape(-1, channels)
    wanted = np.sqrt(((mean - rows.mean(0)) ** 2).sum() / variance.sum())
    wanted += np.sqrt(((variance - rows.var(0)) ** 2).sum() / (variance**2).sum())
    wanted = torch.tensor(wanted, dtype=torch.float32)

    def loss(part, total=None, scale=1.0):
        guidance = torch.tensor(scale * mean).float(), torch.tensor(scale**2 * variance).float()
        return token_statistics_loss(torch.tensor(scale * part), *guidance, total, relative=True)

    assert_close(loss(tokens), wanted, rtol=1e-4, atol=1e-5)
    assert_close(loss(tokens, scale=c), wanted, rtol=1e-4, atol=1e-5)
    for found in together(loss, tokens[:cut], tokens[cut:]):
        assert_close(found, wanted, rtol=1e-4, atol=1e-5)
