"""Qwen2.5-VL and Qwen3-VL beside transformers' own processors, positions and generation."""

from itertools import groupby

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

import vlynx_pl.attention
from vlynx_pl.answering import SharedCache
from vlynx_pl.attention import LISTENING_ATTENTION, listen
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

SIDES = {"qwen2_5_vl": (40, 48), "qwen3_vl": (40,)}  # ragged and whole windows
CASES = [(family, side) for family, sides in SIDES.items() for side in sides]
QUESTION = Question("0", "What colour is the box?", ())
STEPS = 12


@pytest.fixture(params=CASES, ids=lambda one: "-".join(map(str, one)))
def qwen(request):
    return request.param


@pytest.fixture
def untouched(tiny, qwen):
    """The model and its processor, without anything of ours."""
    folder = tiny(qwen[0])
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)


def clips_of(backbone, count, frames):
    """Clips with different numbers of noise frames."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(frames - i, 3, *backbone.frame_size) for i in range(count)]
    return [torch.randint(0, 256, s, dtype=torch.uint8, generator=generator) for s in shapes]


def times_of(clip, fps):
    """The times that the processors give to frames that come twice, at 2·fps: means of two."""
    return [(i + 0.25) / fps for i in range(len(clip))]


def streams_of(backbone, clips, fps):
    return [Stream(backbone.encode(clip[None])[0], times_of(clip, fps)) for clip in clips]


def inputs_of(processor, family, clips, fps):
    """What the family's own processor makes of each frame twice, and of the question."""
    content = [{"type": "video"}] * len(clips) + [{"type": "text", "text": QUESTION.prompt}]
    turn = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    if family == "qwen3_vl":  # the processor of transformers 5 leaves the outer pair of tokens
        text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    metadata = [
        VideoMetadata(len(clip) * 2, 2 * fps, frames_indices=list(range(2 * len(clip))))
        for clip in clips
    ]
    return processor(
        text=[text],
        videos=[clip.repeat_interleave(2, 0) for clip in clips],
        video_metadata=metadata,
        do_sample_frames=False,
        return_tensors="pt",
    )


def positions_of(model, inputs, fps):
    """M-RoPE as Qwen's own code counts it: after a video, 1 + the greatest position of all."""
    tokens = inputs["mm_token_type_ids"][0].tolist()
    per_second = getattr(model.config.vision_config, "tokens_per_second", None)
    rows, columns = (inputs["video_grid_thw"][0, 1:] // 2).tolist()
    axes, following = [], 0
    for kind, group in groupby(tokens):
        count = len(list(group))
        if kind == 0:
            axes += [(following + i,) * 3 for i in range(count)]
        else:
            for frame in range(count // (rows * columns)):
                step = int(frame * per_second / fps) if per_second else 0
                axes += [
                    (following + step, following + row, following + column)
                    for row in range(rows)
                    for column in range(columns)
                ]
        following = 1 + max(map(max, axes))
    return torch.tensor(axes).T


@pytest.fixture(params=[(1, 3), (2, 3), (1, 9), (2, 9)], ids=lambda p: f"{p[0]}-streams-{p[1]}")
def compared(request, load, qwen, untouched):
    """Ours and theirs of one and of two streams, whose time does or does not fit the grid."""
    count, frames = request.param
    (model, processor), backbone, fps = untouched, load(*qwen), 1.0
    clips = clips_of(backbone, count, frames)
    inputs = inputs_of(processor, qwen[0], clips, fps)
    return backbone, clips, fps, model, inputs, positions_of(model, inputs, fps)


@torch.no_grad()
def test_pixels_and_tokens_are_those_of_the_untouched_model(load, qwen, untouched):
    (model, processor), backbone = untouched, load(*qwen)
    [clip] = clips_of(backbone, 1, 3)
    inputs = inputs_of(processor, qwen[0], [clip], 1.0)
    wanted = model.model.get_video_features(
        inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
    )
    deep = [features[0] for features in getattr(wanted, "deepstack_features", [])]
    pixels = inputs["pixel_values_videos"].unflatten(1, (3, 2, 4, 4))
    rows, columns = backbone.token_grid
    grid = pixels.view(3, rows, columns, 2, 2, 3, 2, 4, 4)[:, :, :, :, :, :, 0]
    frames = grid.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(3, 3, *backbone.frame_size)
    assert_close(backbone.normalise(clip[None])[0], frames, atol=1e-6, rtol=0)
    tokens = backbone.encode(frames[None])
    assert torch.equal(tokens.flatten(0, 2), torch.cat([wanted.pooler_output[0], *deep], -1))


@torch.no_grad()
def test_prompts_and_positions_are_those_of_the_family(compared):
    backbone, clips, fps, model, inputs, positions = compared
    streams = streams_of(backbone, clips, fps)
    prompt = backbone.prompt(streams)
    branch = question_branch(backbone.tokenizer, backbone.chat, QUESTION, learnt=False)
    [ids], [kinds] = inputs["input_ids"], inputs["mm_token_type_ids"]
    length = len(prompt.embeddings)
    assert ids[length:].tolist() == branch.ids
    assert prompt.visual.tolist() == kinds[:length].bool().tolist()
    text = ids[:length][~prompt.visual]
    assert torch.equal(prompt.embeddings[~prompt.visual], backbone.embed(text))
    size, rows = backbone.hidden_size, torch.cat([s.tokens.flatten(0, 1) for s in streams])
    assert torch.equal(prompt.embeddings[prompt.visual], rows[:, :size])
    assert prompt.deep.shape == (backbone.deep_layers, int(prompt.visual.sum()), size)
    assert torch.equal(prompt.deep.transpose(0, 1).flatten(1), rows[:, size:])
    assert torch.equal(prompt.positions, positions[:, :length])
    assert prompt.next == positions[0, length] and prompt.next > positions[:, :length].max()
    theirs, _ = model.model.get_rope_index(**inputs)
    if fits(compared):
        assert torch.equal(positions, theirs[:, 0])
    else:
        assert not torch.equal(positions, theirs[:, 0]), "transformers' has been repaired"


def fits(compared):
    """Whether time needs no more steps than the grid, where transformers is right."""
    backbone, clips, fps, *_ = compared
    if backbone.deep_layers:
        return True
    return max(int((len(clip) - 1) * 2 / fps) for clip in clips) < max(backbone.token_grid)


@torch.no_grad()
def test_logits_of_the_prompt_and_of_12_steps_are_those_of_transformers(compared, monkeypatch):
    backbone, clips, fps, model, inputs, positions = compared
    if not fits(compared):  # otherwise it needs no help
        found = positions[:, None], positions.max() + 1 - inputs["input_ids"].shape[1]
        rope = found[0], found[1].view(1, 1)
        monkeypatch.setattr(model.model, "get_rope_index", lambda *_, **__: rope)
    out = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        output_logits=True,
        return_dict_in_generate=True,
    )
    branch = question_branch(backbone.tokenizer, backbone.chat, QUESTION, learnt=False)
    cache = SharedCache(backbone, streams_of(backbone, clips, fps))
    new = out.sequences[0, -STEPS:].tolist()
    ours = [cache.feed({1: ids})[0] for ids in (branch.ids, *([token] for token in new[:-1]))]
    theirs = torch.cat(out.logits)
    assert theirs.std() > 1, "equal logits would show nothing"
    assert_close(torch.stack(ours), theirs, atol=5e-5, rtol=1e-5)


@torch.no_grad()
def test_features_through_the_merger_are_the_tokens(load, qwen):
    backbone = load(*qwen)
    [clip] = clips_of(backbone, 1, 3)
    features, tokens = backbone.features(clip[None])
    patches = features.unflatten(-1, (4, -1)).flatten(0, 3)
    through = backbone.vision_tower.merger(patches).view(*tokens.shape[:3], -1)
    assert_close(through, tokens[..., : backbone.hidden_size], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_windows_of_one_length_are_computed_together(load, qwen, monkeypatch):
    """What is heard does not depend on it."""
    family, side = qwen
    backbone, calls = load(*qwen), []
    [clip] = clips_of(backbone, 1, 5)
    sdpa = vlynx_pl.attention.sdpa_attention_forward

    def counted(module, query, *rest, **options):
        calls.append(tuple(query.shape))
        return sdpa(module, query, *rest, **options)

    monkeypatch.setattr(vlynx_pl.attention, "sdpa_attention_forward", counted)

    def heard():
        found = []
        calls.clear()
        with listen(backbone.attention_layers(), found.append, backbone.positions):
            tokens = backbone.encode(clip[None])
        return tokens, found

    tokens, packed = heard()
    patches = backbone.patch_places.numel()
    whole = [(5, 4, patches, 8)]
    lengths = {40: {16: 1, 24: 2, 36: 1}, 48: {36: 4}}[side]  # windows of each in a frame
    windowed = [(5 * count, 4, length, 8) for length, count in lengths.items()]
    expected = [windowed, whole, windowed] if family == "qwen2_5_vl" else 3 * [whole]
    assert calls == [shape for layer in expected for shape in layer]
    backbone.model.set_attn_implementation({"vision_config": LISTENING_ATTENTION})
    chunked_tokens, chunked = heard()
    windows = 5 * sum(lengths.values()) if family == "qwen2_5_vl" else 5
    assert len(calls) == windows + 5 + windows, "once per window of each frame"
    assert torch.equal(tokens, chunked_tokens)
    for one, other in zip(packed, chunked, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize(
    ("times", "steps"),
    [
        ((0.0, 1.0, 2.0), [0, 2, 4]),
        ((1.3, 2.3, 2.3), [0, 2, 2]),
        ((0.0, 0.4, 0.5), [0, 0, 1]),
        ((), [0, 1, 2]),
    ],
)
def test_time_advances_by_two_positions_per_second(load, times, steps):
    backbone = load("qwen2_5_vl", 16)  # 2 × 2 tokens
    prompt = backbone.prompt([Stream(torch.zeros(3, 4, 64), times)])
    opening = len(prompt.embeddings) - 12 - 1
    time, height, width = (prompt.positions - opening)[:, prompt.visual].tolist()
    assert time == [step for step in steps for _ in range(4)]
    assert height == [0, 0, 1, 1] * 3 and width == [0, 1, 0, 1] * 3
    after = max(steps[-1], 1) + 1
    assert (prompt.positions[:, -1] - opening).tolist() == [after] * 3
    assert prompt.next == opening + after + 1


def test_each_frame_of_qwen3_follows_its_time_in_words(load):
    backbone = load("qwen3_vl", 16)
    stream = Stream(torch.zeros(2, 4, backbone.token_size), (0.25, 1.0))
    prompt = backbone.prompt([stream])
    pieces = ["<|im_start|>user\n<0.2 seconds><|vision_start|>", "<|vision_end|><1.0 seconds>"]
    lengths = [len(backbone.tokenizer(piece)["input_ids"]) for piece in pieces]
    frames = [(kind, len(list(group))) for kind, group in groupby(prompt.visual.tolist())]
    assert frames == [
        (False, lengths[0]), (True, 4), (False, lengths[1] + 1), (True, 4), (False, 1)
    ]  # fmt: skip
    start, following = lengths[0], lengths[0] + 2 + lengths[1] + 1
    assert prompt.positions[:, prompt.visual].tolist() == [
        [start] * 4 + [following] * 4,
        [start, start, start + 1, start + 1, following, following, following + 1, following + 1],
        [start, start + 1] * 2 + [following, following + 1] * 2,
    ]
    assert prompt.next == following + 3
    silent = backbone.prompt([Stream(stream.tokens)])
    assert len(silent.embeddings) == len(prompt.embeddings) - 2 * len("<0.2 seconds>")


def test_deep_features_change_the_answer_and_are_learnt_through(load):
    backbone = load("qwen3_vl", 40)
    [clip] = clips_of(backbone, 1, 2)
    tokens = backbone.encode(clip[None])[0].detach()
    size, ids = backbone.hidden_size, backbone.tokenizer("Why?")["input_ids"]

    def logits(stream):
        prompt = backbone.prompt([Stream(stream, (0.0, 1.0))])
        text = backbone.text(ids, range(prompt.next, prompt.next + len(ids)))
        return backbone.logits(backbone.read(prompt.joined([prompt, text])))[-1]

    changed = tokens.clone().requires_grad_()
    before = logits(tokens).detach()
    logits(changed).square().sum().backward()
    assert all(changed.grad[..., i * size : (i + 1) * size].abs().max() > 1e-4 for i in range(3))
    for layer in (1, 2):
        others = tokens.clone()
        others[..., layer * size : (layer + 1) * size] += 1
        assert not torch.allclose(logits(others), before, atol=1e-2)


@torch.no_grad()
def test_bfloat16_tokens_are_those_of_the_untouched_model(tiny, load, qwen):
    backbone = load(*qwen).bfloat16()
    [clip] = clips_of(backbone, 1, 3)
    tokens = backbone.encode(clip[None])
    backbone.model.set_attn_implementation({"vision_config": "sdpa"})
    assert tokens.dtype == torch.bfloat16
    assert torch.equal(backbone.encode(clip[None]), tokens)
