"""The question's rows of the LLM's attention, against all rows of eager attention, per family."""

import pytest
import torch
from torch.testing import assert_close

from tests.vlynx_pl.conftest import load_miniature, randomise
from vlynx_pl.adapters import Lora
from vlynx_pl.analysis.attention_maps import question_attention, question_rows
from vlynx_pl.backbones.prompt import Prompt, Stream
from vlynx_pl.branch_attention import BRANCH_ATTENTION
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

TIMES = (0.0, 1.5, 3.0)
ASKED = (
    Question("1", "What shape is the red object?", ()),
    Question("2", "Why?", (), history=(("What colour is it?", "red"),)),
)


def streams_of(backbone, frames):
    """A video of three frames and a modality of two."""
    with torch.no_grad():
        tokens = backbone.encode(frames)
    return [Stream(tokens[0], TIMES), Stream(tokens[1, :2], TIMES[:2])]


@torch.no_grad()
def eager(backbone, streams, question, adapter):
    """Attention of every token to every token, (L, h, P + Q, P + Q), and the whole prompt."""
    prefix = backbone.prompt(streams)
    ids = question_branch(backbone.tokenizer, backbone.chat, question, learnt=False).ids
    text = backbone.text(ids, range(prefix.next, prefix.next + len(ids)))
    whole, weights = Prompt.joined([prefix, text]), []
    backbone.language_model.set_attn_implementation("eager")
    handles = [
        layer.self_attn.register_forward_hook(lambda _, inputs, out: weights.append(out[1][0]))
        for layer in backbone.language_model.layers
    ]
    backbone.read(whole, adapter)
    backbone.language_model.set_attn_implementation(BRANCH_ATTENTION)
    for handle in handles:
        handle.remove()
    return torch.stack(weights), whole.visual


def assert_equals_eager(backbone, frames, rows, adapter=None):
    streams = streams_of(backbone, frames)
    layers = range(1, 1 + len(backbone.language_model.layers))
    found = question_attention(backbone, streams, ASKED, layers, [rows] * len(ASKED), adapter)
    for question, attention in zip(ASKED, found, strict=True):
        weights, visual = eager(backbone, streams, question, adapter)
        prefix = len(visual) - len(
            question_branch(backbone.tokenizer, backbone.chat, question, learnt=False).ids
        )
        chosen = [prefix + row for row in question_rows(backbone, question, rows)]
        wanted = weights[:, :, chosen].mean((1, 2))  # (L, P + Q)
        video, modality = wanted[:, visual].split([s.tokens.shape[:2].numel() for s in streams], 1)
        for one, other, stream in zip(attention.maps, (video, modality), streams, strict=True):
            assert one.shape == (len(layers), *stream.tokens.shape[:2])
            assert_close(one.flatten(1), other, atol=1e-5, rtol=1e-5)
        in_text = wanted[:, :prefix][:, ~visual[:prefix]].sum(1)
        sums = [video.sum(1), modality.sum(1), in_text, wanted[:, prefix:].sum(1)]
        assert_close(attention.shares, torch.stack(sums, 1), atol=1e-5, rtol=1e-5)
        assert_close(attention.shares.sum(1), torch.ones(len(layers)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", ["last", "words"])
def test_it_is_the_questions_part_of_eager_attention(backbone, videos, rows):
    assert_equals_eager(backbone, videos, rows)


def test_it_is_that_of_the_tuned_miniature_whose_heads_share_keys():
    backbone = load_miniature()
    heads = backbone.model.config.text_config
    assert (heads.num_attention_heads, heads.num_key_value_heads) == (5, 1)
    backbone.add_llm_adapter("task", Lora(8, 16, 0.0))
    randomise(backbone.llm_adapters, "task", 0.05)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    assert_equals_eager(backbone, frames, "words", "task")
    base, tuned = (
        question_attention(
            backbone, streams_of(backbone, frames), ASKED[:1], [4], ["last"], adapter
        )
        for adapter in (None, "task")
    )
    assert (base[0].shares - tuned[0].shares).abs().max() > 1e-3
