"""SmolVLM2 against transformers: its own processor, forward pass and generation."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

from vlynx_pl.answering import SharedCache
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

QUESTION = "What colour is the box?"
TIMES = (0.0, 61.5, 3725.0)  # in s
FPS = 2
STEPS = 12


@pytest.fixture
def backbone(load):
    return load("smolvlm")


@pytest.fixture(scope="module")
def untouched(tiny):
    """The model and its processor, without anything of ours."""
    model = AutoModelForImageTextToText.from_pretrained(tiny("smolvlm"), dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(tiny("smolvlm"))


@pytest.fixture
def videos(backbone):
    """Two videos of three noise frames, uint8 (2, 3, 3, 36, 36)."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 3, *backbone.frame_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def processed(processor, videos, *turns):
    """The processor's inputs for videos in the first turn, and texts of both roles in turns."""
    contents = [[{"type": "text", "text": text}] for text in turns]
    contents[0] = [*[{"type": "video"}] * len(videos), *contents[0]]
    chat = [
        {"role": ("user", "assistant")[i % 2], "content": content}
        for i, content in enumerate(contents)
    ]
    asks = len(turns) % 2 == 1
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks)
    shown = VideoMetadata(
        int(TIMES[-1] * FPS) + 1, FPS, frames_indices=[int(time * FPS) for time in TIMES]
    )
    metadata = [shown] * len(videos)
    return processor(text=text, videos=list(videos), video_metadata=metadata, return_tensors="pt")


def branch_of(backbone, question, learnt=False):
    return question_branch(backbone.tokenizer, backbone.chat, question, learnt)


def streams_of(backbone, videos):
    return [Stream(tokens, TIMES) for tokens in backbone.encode(videos)]


@torch.no_grad()
def test_pixels_and_tokens_are_those_of_the_untouched_model(backbone, untouched, videos):
    model, processor = untouched
    inputs = processed(processor, videos, QUESTION)
    pixels = inputs.pixel_values
    assert_close(backbone.normalise(videos), pixels, atol=1e-6, rtol=0)
    wanted = model.get_image_features(pixels, inputs.pixel_attention_mask, return_dict=True)
    tokens = backbone.encode(pixels)
    assert tokens.shape == (2, 3, 9, 64) and tokens.std() > 0.1
    assert torch.equal(tokens.flatten(1, 2), torch.stack(wanted.pooler_output))


@torch.no_grad()
def test_a_frame_of_zeros_is_a_frame(backbone, videos):
    """transformers takes it for padding."""
    pixels = backbone.normalise(videos)
    pixels[0, 1] = 0
    alone = backbone.encode(torch.zeros_like(pixels[:1, :1]))
    assert_close(backbone.encode(pixels)[0, 1], alone[0, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_features_are_what_the_projector_is_given(backbone, videos):
    features, tokens = backbone.features(videos)
    assert features.shape == (2, 3, 9, backbone.feature_size)
    projected = backbone.model.model.connector.modality_projection(features)
    assert_close(projected, tokens, atol=1e-6, rtol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 2])
def test_prompt_logits_and_twelve_steps_are_those_of_transformers(
    backbone, untouched, videos, count
):
    model, processor = untouched
    inputs = processed(processor, videos[:count], QUESTION)
    streams = streams_of(backbone, videos[:count])
    prompt, branch = backbone.prompt(streams), branch_of(backbone, Question("q", QUESTION, ()))
    [ids] = inputs.input_ids
    before = len(ids) - len(branch.ids)
    assert branch.ids == ids[before:].tolist()
    assert torch.equal(prompt.visual, ids[:before] == processor.image_token_id)
    text = ids[:before][~prompt.visual]
    assert torch.equal(prompt.embeddings[~prompt.visual], backbone.embed(text))
    assert "three frames from a 1:02:05 [H:MM:SS]" in processor.decode(ids)
    assert "Frame from 62:05:<fake_token_around_image><global-img><image>" in processor.decode(ids)
    assert prompt.positions.tolist() == [list(range(before))] and prompt.next == before

    said = model.generate(
        **inputs,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = said.sequences[0, -STEPS:].tolist()
    cache = SharedCache(backbone, streams)
    ours = [cache.feed({1: fed})[0] for fed in (branch.ids, *([token] for token in new[:-1]))]
    theirs = torch.cat(said.logits)
    assert theirs.std() > 1, "logits that are all alike would show nothing"
    assert_close(torch.stack(ours), theirs, atol=5e-5, rtol=0)


def test_a_dialogue_is_written_as_by_the_processor(backbone, untouched, videos):
    """Answers begin with a space, which is learnt with them."""
    _, processor = untouched
    turns = (QUESTION, "red", "Why?", "it is painted")
    [ids] = processed(processor, videos, *turns).input_ids
    question = Question("q", turns[2], turns[3:], (turns[:2],))
    branch = branch_of(backbone, question, learnt=True)
    assert branch.ids == ids[-len(branch.ids) :].tolist()
    learnt = [token for token, flag in zip(branch.ids, branch.supervised, strict=True) if flag]
    end = "<end_of_utterance>\n"
    assert backbone.tokenizer.decode(learnt) == f" red{end} it is painted{end}"


@torch.no_grad()
def test_frames_without_times_are_written_as_images(backbone, untouched, videos):
    _, processor = untouched
    images = [[frame.permute(1, 2, 0).numpy() for frame in videos[0]]]
    text = f"<|im_start|>User:{'<image>' * 3}"
    inputs = processor(text=text, images=images, do_image_splitting=False, return_tensors="pt")
    prompt = backbone.prompt([Stream(tokens) for tokens in backbone.encode(videos[:1])])
    [ids] = inputs.input_ids
    assert torch.equal(prompt.visual, ids == processor.image_token_id)
    text = ids[~prompt.visual]
    assert torch.equal(prompt.embeddings[~prompt.visual], backbone.embed(text))
