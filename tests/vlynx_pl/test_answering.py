import pytest
import torch
from torch.testing import assert_close

from tests.conftest import MINIATURE
from tests.vlynx_pl.conftest import randomise
from vlynx_pl.adapters import Lora
from vlynx_pl.answering import (
    SharedCache,
    answer,
    answer_each,
    choose,
    continued,
    generate,
    logprob,
    score_options,
)
from vlynx_pl.backbones import load_backbone
from vlynx_pl.backbones.prompt import CHATML, Prompt, Stream
from vlynx_pl.io.errors import UserError
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

ASKED = [
    Question("0", "How many objects are there?", ()),
    Question("1", "Is the red object left of the blue object, or is it above?", ()),
    Question("2", "What shape is it?", (), (("Is there a red box?", "yes, it is there"),)),
    Question("3", "Tell me all about the cyan cone in this room.", ()),
    Question("4", "Why?", (), (("What colour is the cone?", "red"), ("Is it?", "no"))),
]
STOP_IDS = [2, 0]  # the miniature's <|im_end|> and <|endoftext|>


@pytest.fixture
def tuned(backbone):
    """The miniature with an LLM adapter that makes it talk at length."""
    backbone.add_llm_adapter("task", Lora(8, 16))
    randomise(backbone.llm_adapters, "task", 0.14)
    return backbone


@pytest.fixture
def streams(backbone, videos):
    return [Stream(backbone.encode(clip)[0]) for clip in (videos[:1], videos[1:, :2])]


def prompts_of(backbone, asked=ASKED):
    return [question_branch(backbone.tokenizer, CHATML, q, learnt=False).ids for q in asked]


@torch.inference_mode()
def transformers_answers(backbone, streams, asked, **lengths):
    """transformers' own generate, one question at a time: token ids and the logits of each step."""
    prefix = backbone.prompt(streams).embeddings
    for ids in prompts_of(backbone, asked):
        embeddings = torch.cat([prefix, backbone.embed(torch.tensor(ids))])[None]
        out = backbone.model.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=STOP_IDS,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
            **lengths,
        )
        new = [token for token in out.sequences[0].tolist() if token not in STOP_IDS]
        yield new, torch.cat(out.logits)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("adapter", ["task", None])
def test_answers_are_those_of_transformers_generate(backbone, streams, adapter, count):
    streams = streams[:count]
    if adapter:
        backbone.add_llm_adapter(adapter, Lora(8, 16))
        randomise(backbone.llm_adapters, adapter, 0.14)
    wanted = list(
        transformers_answers(backbone, streams, ASKED, max_new_tokens=12, min_new_tokens=3)
    )
    cache = SharedCache(backbone, streams, adapter)
    found = generate(cache, prompts_of(backbone), 12, 3, STOP_IDS)
    assert found == [ids for ids, _ in wanted]
    if adapter:
        assert len({len(ids) for ids in found}) > 1, "they end at different steps"


def test_several_clips_are_answered_at_once_as_one_by_one(tuned, streams):
    clips = [streams, streams[:1], streams[::-1]]
    settings = {"max_new_tokens": 8, "llm_adapter": "task"}
    one_by_one = [answer(tuned, clip, ASKED, **settings) for clip in clips]
    assert answer_each(tuned, clips, ASKED, **settings) == one_by_one
    assert len({tuple(said) for said in one_by_one}) == 3
    prompts = prompts_of(tuned)
    together = SharedCache(tuned, clips[0], "task", clips[1:])
    logits = together.feed(dict(enumerate((ids for ids in prompts for _ in clips), 1)))
    for index, clip in enumerate(clips):
        alone = SharedCache(tuned, clip, "task").feed(dict(enumerate(prompts, 1)))
        assert_close(logits[index :: len(clips)], alone, atol=1e-4, rtol=1e-4)


def test_logits_of_every_step_are_those_of_transformers_generate(tuned, streams):
    wanted = list(transformers_answers(tuned, streams, ASKED, max_new_tokens=10, min_new_tokens=0))
    cache = SharedCache(tuned, streams, "task")
    feeding = dict(enumerate(prompts_of(tuned), 1))
    for step in range(10):
        logits = cache.feed(feeding)
        for row, branch in zip(logits, feeding, strict=True):
            assert_close(row, wanted[branch - 1][1][step], atol=1e-4, rtol=1e-4)
        # Those that go on, backwards: the order of feeding must not matter.
        going = [b for b in reversed(feeding) if len(wanted[b - 1][1]) > step + 1]
        feeding = {b: [wanted[b - 1][0][step]] for b in going}
        if not feeding:
            break


def test_together_in_any_order_and_one_by_one_are_the_same(tuned, streams):
    settings = {"max_new_tokens": 10, "llm_adapter": "task"}
    together = answer(tuned, streams, ASKED, **settings)
    assert together == [answer(tuned, streams, [q], **settings)[0] for q in ASKED]
    assert together[::-1] == answer(tuned, streams, ASKED[::-1], **settings)
    options = ["yes", "no", "box"]
    scores = score_options(tuned, streams, ASKED, options, llm_adapter="task")
    single = [score_options(tuned, streams, [q], options, llm_adapter="task") for q in ASKED]
    assert_close(scores, torch.cat(single), atol=1e-4, rtol=1e-4)


def test_the_clip_is_read_once_and_no_cache_is_copied_for_a_question(tuned, streams):
    shapes = []
    tuned.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    prompts = prompts_of(tuned)
    found = generate(SharedCache(tuned, streams, "task"), prompts, 10, 1, STOP_IDS)
    assert shapes[0] == (1, tuned.prompt_length(streams))
    assert shapes[1] == (1, sum(map(len, prompts)))
    going = [sum(len(ids) > step for ids in found) for step in range(9)]
    assert shapes[2:] == [(1, count) for count in going if count]


def test_lengths_and_stop_tokens_are_respected(tuned, streams):
    prompts = prompts_of(tuned)

    def lengths(most, least, stop=STOP_IDS):
        cache = SharedCache(tuned, streams, "task")
        return [len(ids) for ids in generate(cache, prompts, most, least, stop)]

    free = lengths(12, 0)
    assert min(free) < 6 < max(free)
    assert lengths(12, 6) != free and min(lengths(12, 6)) >= 6
    assert lengths(4, 0) == [min(4, length) for length in free]
    cache = SharedCache(tuned, streams, "task")
    word = generate(cache, prompts, 1, 1, STOP_IDS)[0][0]
    assert lengths(12, 0, [word])[0] == 0


def test_a_checkpoints_generation_config_is_never_read(tuned, streams):
    before = answer(tuned, streams, ASKED, max_new_tokens=10, llm_adapter="task")
    found = generate(SharedCache(tuned, streams, "task"), prompts_of(tuned), 10, 1, STOP_IDS)
    assert before == [tuned.tokenizer.decode(ids).strip() for ids in found]
    config = tuned.model.generation_config
    config.repetition_penalty, config.eos_token_id, config.max_new_tokens = 5.0, 300, 1
    config.do_sample, config.temperature = True, 9.0
    assert answer(tuned, streams, ASKED, max_new_tokens=10, llm_adapter="task") == before


def test_with_adapters_off_the_base_model_answers_bit_for_bit(tuned, streams):
    prompts = dict(enumerate(prompts_of(tuned), 1))
    untouched = load_backbone(str(MINIATURE), "float32")
    wanted = SharedCache(untouched, streams).feed(prompts)
    assert torch.equal(SharedCache(tuned, streams).feed(prompts), wanted)
    assert not torch.equal(SharedCache(tuned, streams, "task").feed(prompts), wanted)


def test_scores_are_logits_at_the_last_token_of_the_prompt(tuned, streams):
    options = ["red", "yes", "A"]
    ids = [tuned.tokenizer(option)["input_ids"][0] for option in options]
    wanted = [
        logits[0, ids]
        for _, logits in transformers_answers(tuned, streams, ASKED, max_new_tokens=1)
    ]
    scores = score_options(tuned, streams, ASKED, options, llm_adapter="task")
    assert_close(scores, torch.stack(wanted), atol=1e-4, rtol=1e-4)
    letters = choose(tuned, streams, ASKED, "ABCD", llm_adapter="task")
    scores = score_options(tuned, streams, ASKED, list("ABCD"), llm_adapter="task")
    assert letters == ["ABCD"[best] for best in scores.argmax(-1)]


def test_invalid_requests_are_one_clear_message(backbone, streams):
    with pytest.raises(UserError, match="without questions"):
        answer(backbone, streams, [])
    with pytest.raises(UserError, match="without questions"):
        score_options(backbone, streams, [], ["A"])
    with pytest.raises(UserError, match="do not differ in their first tokens"):
        score_options(backbone, streams, ASKED, [" A", " B"])


def test_a_cache_that_forgets_is_as_good_as_new(tuned, streams):
    one, other = prompts_of(tuned)[:2]
    cache = SharedCache(tuned, streams, "task")
    size, prefix = cache.nbytes, cache.prefix
    first = generate(cache, [one, other], 8, 1, STOP_IDS)
    assert cache.nbytes > size and cache.prefix == prefix
    cache.forget()
    assert cache.nbytes == size
    assert generate(cache, [other], 8, 1, STOP_IDS) == first[1:]
    cache.forget()
    fresh = SharedCache(tuned, streams, "task").feed({1: one})
    assert_close(cache.feed({1: one}), fresh, atol=1e-5, rtol=1e-5)


def test_log_probabilities_are_those_of_one_forward_of_the_answer(tuned, streams):
    prompt = prompts_of(tuned)[1]
    [steps] = [[*continued(SharedCache(tuned, streams, "task"), [prompt], 6, 1, STOP_IDS)]]
    tokens = [step[1] for step in steps]
    ids = [token.id for token in tokens]
    with torch.inference_mode():
        prefix = tuned.prompt(streams)
        positions = range(prefix.next, prefix.next + len(prompt) + len(ids))
        whole = Prompt.joined([prefix, tuned.text([*prompt, *ids], positions)])
        hidden = tuned.read(whole, "task")
        scores = tuned.logits(hidden[-len(ids) - 1 : -1]).log_softmax(-1)
    wanted = scores[range(len(ids)), ids]
    assert_close(torch.tensor([token.logprob for token in tokens]), wanted, atol=1e-4, rtol=1e-4)
    found = logprob(SharedCache(tuned, streams, "task"), prompt, ids)
    assert found == pytest.approx(float(wanted.sum()), abs=1e-3)
