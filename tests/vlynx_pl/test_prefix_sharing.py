from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import AutoTokenizer, Qwen2Tokenizer

from tests.conftest import MINIATURE
from vlynx_pl.adapters import adapter_parameters
from vlynx_pl.backbones.prompt import CHATML, Stream
from vlynx_pl.io.errors import UserError
from vlynx_pl.prefix_sharing import (
    Branch,
    question_branch,
    question_losses,
    split_by_budget,
)
from vlynx_pl.questions import Question

COLOURS = ("red", "green", "blue", "cyan", "yellow", "black")


def some_questions(turns):
    """Twelve of different lengths; the later ones have longer histories."""
    return [
        Question(
            f"q{k}",
            f"What shape is the {COLOURS[k % 6]} object?" + " Look twice." * (k % 3),
            ("a long red cylinder" if k % 2 else "box",),
            tuple((f"Is there a {COLOURS[i]} box?", "yes" * (i + 1)) for i in range(turns - 1)),
        )
        for k in range(12)
    ]


def messages(question, answer=None):
    """The conversation as a list of turns; the marker stands for the visual tokens."""
    turns = [*question.history, (question.prompt, answer)]
    listed = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
        if text is not None
    ]
    listed[0]["content"] = f"<video>\n{listed[0]['content']}"
    return listed


def template_ids(tokenizer, listed, generate=False):
    text = tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=generate)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def streams_of(backbone, videos, modalities):
    clips = [videos[i : i + 1, : 3 - i] for i in range(1 + modalities)]
    return [Stream(backbone.encode(clip)[0].detach()) for clip in clips]


def reference_losses(backbone, streams, questions):
    """One plain sequence a question through transformers' own forward and loss."""
    model, tokenizer = backbone.model, backbone.tokenizer
    visual = torch.cat(
        [part for s in streams for part in (s.tokens.flatten(0, 1), backbone.newline[None])]
    )
    marker = tokenizer.convert_tokens_to_ids("<video>")
    for question in questions:
        listed = messages(question, question.answers[0])
        ids = torch.tensor(template_ids(tokenizer, listed))
        labels = torch.full_like(ids, -100)
        for turn in range(1, len(listed), 2):
            begin = len(template_ids(tokenizer, listed[:turn], generate=True))
            end = len(template_ids(tokenizer, listed[: turn + 1]))
            labels[begin:end] = ids[begin:end]
        place = int((ids == marker).nonzero())
        words = model.get_input_embeddings()(ids)
        embeddings = torch.cat([words[:place], visual, words[place + 1 :]])
        unlabelled = torch.full((len(visual),), -100)
        labels = torch.cat([labels[:place], unlabelled, labels[place + 1 :]])
        yield model(inputs_embeds=embeddings[None], labels=labels[None], use_cache=False).loss


def shared_losses(backbone, streams, questions):
    branches = [
        question_branch(backbone.tokenizer, backbone.chat, question, learnt=True)
        for question in questions
    ]
    return question_losses(backbone, backbone.prompt(streams), branches, "task")


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("modalities", [0, 1, 2])
def test_loss_and_gradients_are_those_of_separate_sequences(tuned, videos, modalities, turns):
    videos = torch.cat([videos, videos.flip(-1)])
    streams = streams_of(tuned, videos, modalities)
    tokens = [stream.tokens.requires_grad_() for stream in streams]
    learnt = [*adapter_parameters(tuned.llm_adapters, "task").values(), *tokens]
    questions = some_questions(turns)
    plain = list(reference_losses(tuned, streams, questions))
    gradients = [torch.autograd.grad(loss, learnt) for loss in plain]
    sums = accumulate(gradients, lambda a, b: [x + y for x, y in zip(a, b, strict=True)])
    for count, wanted in enumerate(sums, 1):
        losses = shared_losses(tuned, streams, questions[:count])
        assert_close(losses, torch.stack(plain[:count]), atol=1e-5, rtol=1e-5)
        found = torch.autograd.grad(losses.mean(), learnt)
        for ours, theirs in zip(found, wanted, strict=True):
            assert theirs.abs().max() > 1e-4, "a gradient of zero would show nothing"
            assert_close(ours, theirs / count, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_logits_are_computed_for_supervised_tokens_only(tuned, videos):
    rows = []
    head = tuned.model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    questions = some_questions(2)
    shared_losses(tuned, streams_of(tuned, videos, 1), questions)
    branches = [question_branch(tuned.tokenizer, CHATML, q, learnt=True) for q in questions]
    assert rows == [sum(sum(branch.supervised) for branch in branches)]


def test_the_prefix_is_template_streams_and_a_newline_after_each(backbone, videos):
    streams = streams_of(backbone, videos, 1)
    prompt = backbone.prompt(streams)
    prefix = prompt.embeddings
    listed = messages(some_questions(1)[0])
    ids = template_ids(backbone.tokenizer, listed)
    start = ids.index(backbone.tokenizer.convert_tokens_to_ids("<video>"))
    per_frame = backbone.tokens_per_frame
    assert len(prefix) == start + (3 * per_frame + 1) + (2 * per_frame + 1)
    assert backbone.prompt_length(streams) == len(prefix)
    assert prompt.positions.tolist() == [list(range(len(prefix)))] and prompt.next == len(prefix)
    assert int(prompt.visual.sum()) == (3 + 2) * per_frame
    assert torch.equal(prefix[:start], backbone.embed(torch.tensor(ids[:start])))
    assert torch.equal(prefix[start : start + 3 * per_frame], streams[0].tokens.flatten(0, 1))
    for newline in (start + 3 * per_frame, len(prefix) - 1):
        assert torch.equal(prefix[newline], backbone.newline)


def qwen2_tokenizer():
    """Qwen2's own rules for cutting text, with a few merges over line ends and spaces."""
    small = AutoTokenizer.from_pretrained(MINIATURE)
    vocabulary = {token: i for token, i in small.get_vocab().items() if len(token) == 1}
    merges = [("Ċ", "Ċ"), ("Ġ", "A"), ("?", "Ċ"), ("Ġ", "Ġ"), ("Ġ", "Ċ"), (".", "Ċ")]
    alphabet = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens = [*alphabet, *map("".join, merges)]
    return Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<video>"],
        chat_template=small.chat_template,
    )


TOKENIZERS = {
    "miniature": AutoTokenizer.from_pretrained(MINIATURE),
    "qwen2": qwen2_tokenizer(),
}
# Tokens like <video> are refused.
words = st.text(max_size=20).filter(lambda text: "<" not in text) | st.text("A ?.\n-", max_size=8)
said = words.filter(lambda text: text.strip())


@pytest.mark.parametrize("name", TOKENIZERS)
@given(words, said, st.lists(st.tuples(words, said), max_size=2))
def test_tokens_are_those_of_the_plain_conversation(name, prompt, answer, history):
    tokenizer = TOKENIZERS[name]
    question = Question("q", prompt, (answer,), tuple(history))
    branch = question_branch(tokenizer, CHATML, question, learnt=True)
    bare = Question("q", prompt, (), tuple((asked, text.strip()) for asked, text in history))
    plain = template_ids(tokenizer, messages(bare, answer.strip()))
    after = plain.index(tokenizer.convert_tokens_to_ids("<video>")) + 1
    assert branch.ids == plain[after:]
    asked = question_branch(tokenizer, CHATML, question, learnt=False)
    open_ = template_ids(tokenizer, messages(bare), generate=True)
    assert asked.ids == open_[after:]
    assert branch.ids[: len(asked.ids)] == asked.ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_answers_their_end_and_the_newline_are_supervised(name):
    tokenizer = TOKENIZERS[name]
    question = Question(
        "q", "And now?", (" a box ", "no"), (("What?", "a cone"), ("Where?", "left"))
    )
    branch = question_branch(tokenizer, CHATML, question, learnt=True)
    assert len(branch.ids) == len(branch.supervised)
    learnt = [i for i, flag in zip(branch.ids, branch.supervised, strict=True) if flag]
    assert tokenizer.decode(learnt) == "a cone<|im_end|>\nleft<|im_end|>\na box<|im_end|>\n"


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(50, 90))
def test_splitting_keeps_the_order_and_the_budget(lengths, budget):
    branches = [Branch(str(k), [0] * length, [True] * length) for k, length in enumerate(lengths)]
    groups = split_by_budget(branches, budget)
    assert [branch for group in groups for branch in group] == branches
    assert all(group for group in groups)
    sums = [sum(len(branch.ids) for branch in group) for group in groups]
    assert all(used <= budget for used in sums)
    following = [len(group[0].ids) for group in groups[1:]]
    assert all(used + first > budget for used, first in zip(sums, following, strict=False))


def test_a_question_longer_than_the_budget_is_named():
    branches = [Branch("short", [0] * 3, [True] * 3), Branch("AB12C/7", [0] * 9, [True] * 9)]
    with pytest.raises(UserError, match=r"'AB12C/7' has 9 tokens.*question_budget=8; raise"):
        split_by_budget(branches, 8)


def test_a_question_that_cannot_be_learnt_is_named():
    question = Question("q7", "What?", ("box",), (("Where?", ""),))
    with pytest.raises(UserError, match="'q7' has no answer to 'Where"):
        question_branch(TOKENIZERS["miniature"], CHATML, question, learnt=True)


def test_a_clip_without_questions_is_refused(backbone):
    with pytest.raises(UserError, match="without questions"):
        question_losses(backbone, backbone.prompt([]), [])


def test_tokens_of_another_width_are_refused(backbone):
    with pytest.raises(ValueError, match=r"must be \(T, N, 160\), got \(2, 4, 8\)"):
        backbone.prompt([Stream(torch.zeros(2, 4, 8))])


def test_a_backbone_without_a_processor_cannot_read_text(backbone):
    backbone.processor = None
    with pytest.raises(ValueError, match=r"miniature was built without a processor"):
        backbone.prompt([])
