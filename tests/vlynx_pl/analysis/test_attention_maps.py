"""Rows, maps and masks of a question's attention."""

import pytest
import torch
from torch.testing import assert_close

from vlynx_pl.analysis.attention_maps import (
    NEUTRAL,
    coverage,
    lift,
    question_attention,
    question_rows,
    relative,
)
from vlynx_pl.answering import answer
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.io.errors import UserError
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

RED = Question("red", "How far away is the red object?", ())
DIALOGUE = Question("why", "Why is it red?", (), history=(("Is it the red one?", "yes"),))


@pytest.fixture
def streams(backbone, videos):
    with torch.no_grad():
        video, depth = backbone.encode(videos)
    return [Stream(video), Stream(depth[:2])]


def text_of(backbone, question, rows):
    ids = question_branch(backbone.tokenizer, backbone.chat, question, learnt=False).ids
    return backbone.tokenizer.decode([ids[row] for row in question_rows(backbone, question, rows)])


@pytest.mark.parametrize("question", [RED, DIALOGUE, NEUTRAL], ids=lambda one: one.id)
def test_words_are_the_last_turns_own_tokens(backbone, question):
    assert text_of(backbone, question, "words").strip() == question.prompt
    assert text_of(backbone, question, "last") == "\n"


@pytest.mark.parametrize("question", [RED, DIALOGUE], ids=lambda one: one.id)
def test_a_named_word_is_found_in_any_case_and_only_as_a_whole(backbone, question):
    assert text_of(backbone, question, "RED").strip() == "red"
    with pytest.raises(UserError, match=r"lacks the word 're'; give another"):
        question_rows(backbone, question, "re")


def test_a_question_is_read_as_if_it_were_asked_alone(backbone, streams):
    layers = [4, 2]
    both = question_attention(backbone, streams, [NEUTRAL, RED], layers, ["words", "words"])
    [alone] = question_attention(backbone, streams, [RED], layers, ["words"])
    assert_close(both[1].shares, alone.shares, atol=1e-5, rtol=1e-5)
    assert both[0].shares.shape == (2, 4)
    assert (both[0].shares - alone.shares).abs().max() > 1e-3, "questions do not differ"
    [fourth] = question_attention(backbone, streams, [RED], [4], ["words"])
    assert_close(alone.maps[1][:1], fourth.maps[1])


def test_measuring_changes_no_answer(backbone, streams):
    asked = [RED, NEUTRAL]
    before = answer(backbone, streams, asked, max_new_tokens=8)
    implementation = backbone.language_model.config._attn_implementation
    question_attention(backbone, streams, asked, [1], ["last", "words"])
    assert backbone.language_model.config._attn_implementation == implementation
    assert answer(backbone, streams, asked, max_new_tokens=8) == before
    with pytest.raises(UserError, match="lacks the word"):
        question_attention(backbone, streams, asked, [1], ["words", "purple"])
    assert backbone.language_model.config._attn_implementation == implementation


@pytest.mark.parametrize("layers", [[], [0], [5], [1, 1], [2, 9]])
def test_layers_that_do_not_exist_are_refused(backbone, streams, layers):
    with pytest.raises(UserError, match="has layers 1 to 4; give some of them, each once"):
        question_attention(backbone, streams, [RED], layers, ["last"])


def test_a_map_relative_to_itself_is_one():
    torch.manual_seed(0)
    found = torch.rand(4, 3, 16)
    assert_close(relative(found, 0.3 * found), torch.ones(4, 3, 16))
    doubled = found.clone()
    doubled[:, 0, 0] *= 2
    assert (relative(doubled, found)[:, 0, 0] > 1).all()
    assert (relative(doubled, found)[:, 1:] < 1).all()


def test_lift_of_a_uniform_map_is_one_and_of_a_focused_one_more():
    mask = torch.zeros(2, 16)
    mask[0, :3], mask[1, 5] = 1, 0.5
    assert_close(lift(torch.full((4, 2, 16), 0.01), mask), torch.ones(4))
    focused = torch.zeros(2, 16)
    focused[0, 0] = 0.2
    assert_close(lift(focused, mask), torch.tensor(32 / 3.5))
    assert lift(focused, torch.zeros(2, 16)).isnan()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"mask covers \(2, 9\) .* map \(2, 16\); make masks"):
        lift(torch.rand(4, 2, 16), torch.ones(2, 9))


def test_coverage_is_each_tokens_share_of_area():
    instances = torch.zeros(1, 4, 8, dtype=torch.long)
    instances[0, :2, :2] = 1  # object 0
    instances[0, 0, 4:] = 3  # object 2
    found = coverage(instances, [0], (2, 2))
    named, others, background = found[:, 0].unflatten(-1, (2, 2))
    assert_close(named, torch.tensor([[0.5, 0], [0, 0]]))
    assert_close(others, torch.tensor([[0, 0.5], [0, 0]]))
    assert_close(background, torch.tensor([[0.5, 0.5], [1, 1]]))
    assert not coverage(instances, [], (2, 2))[0].any()
