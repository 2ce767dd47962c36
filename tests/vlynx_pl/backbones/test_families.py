"""What holds for every family: a tiny model of each runs through all that the method asks of it."""

import copy
from math import ceil

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close

from tests.processes import meet, together
from tests.vlynx_pl.conftest import episode, randomise, tuning
from vlynx_pl.adapters import Lora, adapter_parameters
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.answering import SharedCache, generate
from vlynx_pl.attention import listen
from vlynx_pl.backbones import BackboneError, load_backbone
from vlynx_pl.backbones.prompt import Prompt, Stream
from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.objectives import AlignmentObjective
from vlynx_pl.prefix_sharing import question_branch, question_losses
from vlynx_pl.questions import Question
from vlynx_pl.streams import AlignedStreams

TIMES = (0.0, 1.0, 2.0)
ASKED = (
    Question("0", "How many objects are there?", ("two red boxes",)),
    Question("1", "Is it red?", ("no",), (("Where is the box?", "on the left"),)),
    Question("2", "Why?", ("it is blue",)),
)


def streams_of(backbone, videos):
    """A video of three frames and a second stream of two."""
    with torch.no_grad():
        tokens = backbone.encode(videos)
    return [Stream(tokens[0], TIMES), Stream(tokens[1, :2], TIMES[:2])]


def branches(backbone, learnt):
    chat = backbone.chat
    return [question_branch(backbone.tokenizer, chat, asked, learnt) for asked in ASKED]


@torch.no_grad()
def test_tokens_are_those_of_plain_sdpa_bit_for_bit(backbone, videos):
    tokens = backbone.encode(videos)
    assert tokens.shape == (2, 3, backbone.tokens_per_frame, backbone.token_size)
    backbone.model.set_attn_implementation({"vision_config": "sdpa"})
    assert torch.equal(backbone.encode(videos), tokens)


@torch.no_grad()
def test_context_and_output_follow_from_what_is_heard(backbone, videos):
    layers, calls = backbone.attention_layers(), []
    with listen(layers, calls.append, backbone.positions):
        backbone.encode(videos)
    assert [call.layer for call in calls] == list(range(len(layers)))
    for call, layer, window in zip(calls, layers, backbone.attention_windows(), strict=True):
        assert call.query.shape == (6, layer.num_heads, backbone.positions, layer.head_dim)
        scores = call.query @ call.key.mT / layer.head_dim**0.5
        if window is not None:
            scores = scores.masked_fill(window[:, None] != window, -torch.inf)
        context = (scores.softmax(-1) @ call.value).transpose(1, 2).flatten(2)
        assert_close(call.context, context, atol=1e-4, rtol=1e-4)
        assert_close(call.output, backbone.output_projection(layer)(call.context))


@torch.no_grad()
def test_each_patch_stands_where_the_backbone_says(backbone, videos):
    def values(frames):
        calls = []
        with listen(backbone.attention_layers(), calls.append, backbone.positions):
            backbone.encode(frames)
        return calls[0].value[0].transpose(0, 1).flatten(1)  # (S, h*d)

    frame, places = videos[:1, :1], backbone.patch_places
    assert len(places.unique()) == places.numel() <= backbone.positions
    whole = values(frame)
    rows, columns = backbone.patch_grid
    side = backbone.side // rows
    for row, column in ((0, 0), (1, columns - 1), (rows - 1, 2), (rows // 2, columns // 2)):
        blackened = frame.clone()
        blackened[..., row * side : (row + 1) * side, column * side : (column + 1) * side] = 0
        changed = (values(blackened) - whole).abs().amax(1) > 1e-6
        assert changed.nonzero().flatten().tolist() == [int(places[row, column])]


@pytest.mark.parametrize("queries", ["pooled", "all"])
@pytest.mark.parametrize("response", ["projected", "context"])
@torch.no_grad()
def test_a_still_has_no_gap_to_its_own_guidance(backbone, videos, queries, response):
    still, other = videos[:1, :1].expand(1, 2, -1, -1, -1), videos[1:]
    objective = AlignmentObjective(queries=queries, response=response)
    module = InterfaceAlignment(backbone, "3d", objective, Lora(2, 4))
    module.use_guidance(estimate_guidance(backbone, [still]))
    rows, columns = backbone.patch_grid
    compared = ceil(rows / 2) * ceil(columns / 2) if queries == "pooled" else rows * columns
    assert len(objective.positions(backbone.patch_places)) == compared
    assert module.encode(still, None).attention_gaps.max() <= 1e-6
    assert module.encode(other, None).attention_gaps.min() > 1e-3


@torch.no_grad()
def test_features_come_with_the_tokens(backbone, videos):
    features, tokens = backbone.features(videos)
    assert torch.equal(tokens, backbone.encode(videos))
    assert features.shape == (*tokens.shape[:-1], backbone.feature_size)


def test_adapters_leave_the_base_as_it_is_and_are_saved_for_plain_peft(
    backbone, load, case, videos, tmp_path
):
    """Gradients reach every tensor of an adapter in training."""
    with torch.no_grad():
        base = backbone.encode(videos)
    module = InterfaceAlignment(backbone, "3d", lora=Lora(4, 8, 0.0))
    module.use_guidance(estimate_guidance(backbone, [videos]))
    randomise(backbone.vision_adapters, "3d", 0.1)
    module.losses(255 - videos)["total"].backward()
    for name, tensor in adapter_parameters(backbone.vision_adapters, "3d").items():
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, name
    with torch.no_grad():
        adapted = backbone.encode(videos, "3d")
        assert not torch.equal(adapted, base)
        assert torch.equal(backbone.encode(videos), base)
    module.save_adapters(tmp_path, {})
    other = load(*case)
    PeftModel.from_pretrained(other.vision_tower, tmp_path / "vision-3d")
    with torch.no_grad():
        assert_close(other._tokens(other.normalise(videos)), adapted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_shared_prefix_equals_separate_sequences(backbone, videos, checkpointing):
    backbone.add_llm_adapter("task", Lora(4, 8, 0.0))
    randomise(backbone.llm_adapters, "task", 0.05)
    streams = streams_of(backbone, videos)
    tokens = [stream.tokens.requires_grad_() for stream in streams]
    learnt = {
        **adapter_parameters(backbone.llm_adapters, "task"),
        "video": tokens[0],
        "modality": tokens[1],
    }

    def losses(asked):
        prompt = backbone.prompt(streams)
        found = question_losses(backbone, prompt, asked, "task")
        return found, torch.autograd.grad(found.sum(), list(learnt.values()))

    each = branches(backbone, learnt=True)
    apart = [losses([one]) for one in each]
    if checkpointing:
        backbone.checkpoint_llm()
        backbone.train()
    shared, gradients = losses(each)
    assert_close(shared, torch.cat([loss for loss, _ in apart]), atol=1e-5, rtol=1e-5)
    for name, ours, *theirs in zip(learnt, gradients, *(g for _, g in apart), strict=True):
        assert ours.abs().max() > 1e-5, f"{name}: a gradient of zero would show nothing"
        assert_close(ours, sum(theirs), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_answers_to_all_questions_are_those_to_each(backbone, videos):
    streams = streams_of(backbone, videos)
    prompts = [branch.ids for branch in branches(backbone, learnt=False)]

    def answers(asked):
        return generate(SharedCache(backbone, streams), asked, 8, 8, [])

    found = answers(prompts)
    assert found == [answers([prompt])[0] for prompt in prompts]
    assert len({tuple(answer) for answer in found}) > 1, "equal answers would show nothing"


@torch.no_grad()
def test_several_clips_are_read_at_once_as_one_by_one(backbone, videos):
    streams = streams_of(backbone, videos)
    clips = [streams, streams[1:], streams[::-1]]
    prompts = [branch.ids for branch in branches(backbone, learnt=False)]
    together = SharedCache(backbone, clips[0], None, clips[1:])
    found = together.feed(dict(enumerate((ids for ids in prompts for _ in clips), 1)))
    for index, clip in enumerate(clips):
        alone = SharedCache(backbone, clip).feed(dict(enumerate(prompts, 1)))
        assert_close(found[index :: len(clips)], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_read_in_parts_equals_what_is_read_at_once(backbone, videos):
    prefix = backbone.prompt(streams_of(backbone, videos))
    ids = branches(backbone, learnt=False)[0].ids
    question = backbone.text(ids, range(prefix.next, prefix.next + len(ids)))
    whole = backbone.logits(backbone.read(Prompt.joined([prefix, question])))
    cache = SharedCache(backbone, streams_of(backbone, videos))
    assert_close(cache.feed({1: ids})[0], whole[-1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokens_can_be_merged_and_pooled(backbone, load, case, videos):
    frames = {"video": videos[0], "3d": torch.cat([videos[1], 255 - videos[1]])}
    asked = {"streams": frames, "times": dict.fromkeys(frames, TIMES)}
    pooled = {"keep": {"3d": 1}, "reduce": {"3d": "pool"}}
    module = tuning(AlignedStreams({"3d": "base"}, **pooled), backbone)
    streams = module.encode(asked)
    pairs = backbone.encode(frames["3d"][None])[0].unflatten(0, (3, 2))
    assert_close(streams[1].tokens, pairs.mean(1).mean(1))
    prompt = backbone.prompt(streams)
    outlined = backbone.prompt_length(module.streams.outline(asked))
    visual = 3 * (backbone.tokens_per_frame + 1)
    assert int(prompt.visual.sum()) == module.streams.visual_tokens(asked) == visual
    assert len(prompt.embeddings) == outlined == prompt.positions.shape[1]
    whole = tuning(AlignedStreams({"3d": "base"}), load(*case))
    assert prompt.next == backbone.prompt(whole.encode(asked)).next
    places = 3 * backbone.tokens_per_frame
    assert module.streams.kept_bytes(asked) == 2 * visual * backbone.token_size + places


@torch.no_grad()
def test_pave_begins_as_the_base(backbone, load, case, videos):
    patched = tuning(PatchedVideo("3d", hidden=16, heads=2), load(*case))
    plain, asked = tuning(backbone=backbone), episode(videos, "3d")
    assert torch.equal(patched.encode(asked)[0].tokens, plain.encode(asked)[0].tokens)
    assert torch.equal(patched.losses(asked), plain.losses(asked))
    randomised = patched.streams.patch
    for parameter in randomised.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert not torch.equal(patched.losses(asked), plain.losses(asked))


def gradients(backbone, guidance, frames, share=1.0):
    module = InterfaceAlignment(backbone, "3d", lora=Lora(2, 4, 0.0))
    randomise(backbone.vision_adapters, "3d", 0.1)
    module.use_guidance(guidance)
    module.losses(frames, share)["total"].backward()
    return [p.grad for p in module.parameters() if p.requires_grad]


def gradients_of_a_rank(rank, folder, side, meeting, videos, wanted):
    torch.set_num_threads(1)
    backbone = load_backbone(folder, "float32", side=side)
    guidance = estimate_guidance(backbone, [videos])
    meet(rank, 2, meeting)
    found = gradients(backbone, guidance, 255 - videos[rank : rank + 1])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.distributed.all_reduce(ours)  # as DDP does
        assert_close(ours / 2, theirs, atol=1e-5, rtol=1e-4)


def test_two_processes_equal_one(backbone, tiny, case, videos, tmp_path):
    guidance = estimate_guidance(backbone, [videos])
    wanted = gradients(backbone, guidance, 255 - videos)
    folder, meeting = str(tiny(case[0])), str(tmp_path / "meeting")
    assert together(gradients_of_a_rank, 2, folder, case[1], meeting, videos, wanted) == [0, 0]


def test_other_sides_are_taken_or_refused(backbone, load, case):
    family, _ = case
    if backbone.side_multiple is None:
        with pytest.raises(BackboneError, match=rf"side=9: .* {backbone.side} pixels only"):
            load(family, 9)
    else:
        with pytest.raises(BackboneError, match=r"side=9: .* multiple of \d+ pixels"):
            load(family, 9)
        assert load(family).side == backbone.default_side
        assert load(family, 16).patch_places.shape == load(family, 16).patch_grid


def test_float16_and_newlines_are_for_those_that_have_them(backbone, tiny, case, videos):
    if not backbone.float16:
        with pytest.raises(BackboneError, match=r"float16.* exceed its range; give bfloat16"):
            load_backbone(str(tiny(case[0])), "float16")
    if backbone.newline is None:
        with pytest.raises(UserError, match=r"include_newline=true, but .* without a newline"):
            estimate_guidance(backbone, [videos], include_newline=True)


def test_layers_without_full_attention_are_refused(backbone):
    model = copy.deepcopy(backbone.model)
    model.config.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(BackboneError, match=r"layers with .*linear_attention.* see each other"):
        type(backbone)("it", model, backbone.processor, backbone.side)


@torch.no_grad()
def test_dropped_tokens_are_as_if_nobody_could_see_them(backbone, videos):
    streams = streams_of(backbone, videos)
    generator = torch.Generator().manual_seed(1)
    masks = [torch.rand(stream.grid, generator=generator) < 0.4 for stream in streams]
    masks[0][1] = False  # a frame without tokens
    reduced = [Stream(s.tokens[m], s.times, m) for s, m in zip(streams, masks, strict=True)]
    whole, fewer = backbone.prompt(streams), backbone.prompt(reduced)
    kept = torch.ones(len(whole.embeddings), dtype=torch.bool)
    kept[whole.visual] = torch.cat([mask.flatten() for mask in masks])
    assert 1 < kept[whole.visual].sum() < whole.visual.sum()
    assert torch.equal(fewer.positions, whole.positions[:, kept])
    assert torch.equal(fewer.visual, whole.visual[kept]) and fewer.next == whole.next
    assert len(fewer.embeddings) == backbone.prompt_length(reduced)
    ids = branches(backbone, learnt=False)[0].ids
    question = backbone.text(ids, range(whole.next, whole.next + len(ids)))
    seen = torch.cat([kept, torch.ones(len(ids), dtype=torch.bool)])
    # Of all tokens, those that were dropped see themselves, and nobody else does.
    mask = (seen & torch.ones(len(seen), len(seen)).tril().bool()) | torch.eye(len(seen)).bool()
    wanted = backbone.read(Prompt.joined([whole, question]), mask=mask[None, None])[seen]
    found = backbone.read(Prompt.joined([fewer, question]))
    assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    cached = SharedCache(backbone, reduced).feed({1: ids})
    assert_close(cached[0], backbone.logits(wanted[-1]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_questions_share_a_reduced_prefix(backbone, videos):
    settings = {"keep": {"video": 1, "3d": 0.3}, "reduce": {"3d": "random"}}
    module = tuning(AlignedStreams({"3d": "base"}, **settings), backbone).eval()
    prefix = backbone.prompt(module.encode(episode(videos, "3d")))
    each = branches(backbone, learnt=True)
    apart = torch.cat([question_losses(backbone, prefix, [one]) for one in each])
    assert_close(question_losses(backbone, prefix, each), apart, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_compact_positions_go_on_by_one(backbone, videos):
    streams = streams_of(backbone, videos)
    mask = torch.zeros(streams[0].grid, dtype=torch.bool)
    mask[:, ::2] = True
    reduced = Stream(streams[0].tokens[mask], TIMES, mask, compact=True)
    prompt = backbone.prompt([reduced])
    running = torch.arange(len(prompt.embeddings)).expand(backbone.axes, -1)
    assert torch.equal(prompt.positions, running) and prompt.next == running.shape[1]
