"""InternVL against transformers: its own processor, forward pass and generation."""

import json
import shutil

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from vlynx_pl.answering import SharedCache
from vlynx_pl.attention import listen
from vlynx_pl.backbones import BackboneError, load_backbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.backbones.tiny import write_tiny
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

QUESTION = "What colour is the box?"
LARGE = {"use_qk_norm": True, "norm_type": "rms_norm", "attention_bias": False}  # as InternViT-6B


def write_variant(tiny, folder, llm="qwen2", **vision):
    """A copy of the tiny model with another LLM or vision encoder, and random weights."""
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((tiny / "config.json").read_text())
    text = settings["text_config"]
    settings["vision_config"] |= vision
    settings["text_config"] = {
        name: text[name] for name in text if name not in {"layer_types", "model_type"}
    } | {"model_type": llm, "head_dim": 24}
    (folder / "config.json").write_text(json.dumps(settings))
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "embeddings" in name:
            torch.nn.init.normal_(parameter, float(name.endswith("norm.weight")), 0.5)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "internvl"
    write_tiny("internvl", folder)
    return folder


@pytest.fixture(scope="module", params=["qwen2", "qwen3", "large"])
def folder(tiny, tmp_path_factory, request):
    """With a Qwen2 or Qwen3 LLM; ``large`` has a vision encoder like that of 6B parameters."""
    path = tmp_path_factory.mktemp("models") / request.param
    if request.param == "large":
        write_variant(tiny, path, **LARGE)
    else:
        write_variant(tiny, path, request.param)
    return path


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(str(folder), "float32")


@pytest.fixture(scope="module")
def untouched(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None  # twelve steps, whatever is said
    return model.eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def frames():
    """Two videos of three noise frames, uint8 (2, 3, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8, generator=generator)


def processed(processor, frames, system):
    """The processor's inputs for a question on all videos in one turn."""
    shown = [*[{"type": "video"}] * len(frames), {"type": "text", "text": QUESTION}]
    turns = [{"role": "user", "content": shown}]
    if system:
        turns = [{"role": "system", "content": system}, *turns]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return processor(text=text, videos=list(frames), return_tensors="pt")


@torch.no_grad()
def test_pixels_and_tokens_are_those_of_the_untouched_model(backbone, untouched, frames):
    model, processor = untouched
    pixels = processor(text="<video>", videos=[frames[0]], return_tensors="pt").pixel_values
    assert_close(backbone.normalise(frames)[0], pixels, atol=1e-6, rtol=0)
    wanted = model.get_image_features(pixels, return_dict=True).pooler_output
    assert wanted.std() > 0.1
    assert torch.equal(backbone.encode(pixels[None])[0], wanted)


@torch.no_grad()
def test_features_are_what_the_projector_is_given(backbone, frames):
    features, tokens = backbone.features(frames)
    assert features.shape == (2, 3, backbone.tokens_per_frame, backbone.feature_size)
    projected = backbone.model.model.multi_modal_projector(features)
    assert_close(projected, tokens, atol=1e-6, rtol=1e-6)
    assert torch.equal(tokens, backbone.encode(frames))


@torch.inference_mode()
@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("videos", [1, 2])
def test_prompt_logits_and_twelve_steps_are_those_of_transformers(
    backbone, untouched, frames, videos, system, monkeypatch
):
    model, processor = untouched
    opening, user = backbone.chat.opening, "<|im_start|>user\n"
    message = opening.removeprefix("<|im_start|>system\n").removesuffix(f"<|im_end|>\n{user}")
    if not system:
        monkeypatch.setattr(backbone, "chat", backbone.chat._replace(opening=user), raising=False)
    inputs = processed(processor, frames[:videos], message if system else None)
    streams = [Stream(backbone.encode(video[None])[0]) for video in frames[:videos]]
    prompt = backbone.prompt(streams)
    branch = question_branch(
        backbone.tokenizer, backbone.chat, Question("q", QUESTION, ()), learnt=False
    )
    ids = inputs.input_ids[0]
    before = len(ids) - len(branch.ids)
    visual = ids[:before] == processor.image_token_id
    assert torch.equal(prompt.visual, visual)
    assert torch.equal(prompt.embeddings[~visual], backbone.embed(ids[:before][~visual]))
    assert branch.ids == ids[before:].tolist()
    assert prompt.positions.tolist() == [list(range(before))] and prompt.next == before

    said = model.generate(
        **inputs,
        max_new_tokens=12,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    cache, feeding = SharedCache(backbone, streams), branch.ids
    for wanted, token in zip(said.logits, said.sequences[0, len(ids) :].tolist(), strict=True):
        found = cache.feed({1: feeding})
        assert wanted.std() > 1, "logits that are all alike would show nothing"
        assert_close(found, wanted, atol=5e-5, rtol=0)
        assert int(found.argmax()) == token
        feeding = [token]


@torch.inference_mode()
def test_bfloat16_differs_by_a_rounding_at_most(folder, frames):
    backbone = load_backbone(str(folder), "bfloat16")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processed(processor, frames[:1], None)
    tokens = backbone.encode(frames[:1])
    features = model.get_image_features(inputs.pixel_values, return_dict=True)
    assert torch.equal(tokens[0], features.pooler_output)
    question = Question("q", QUESTION, ())
    chat = backbone.chat._replace(opening="<|im_start|>user\n")
    backbone.chat = chat
    ids = question_branch(backbone.tokenizer, chat, question, learnt=False).ids
    found = SharedCache(backbone, [Stream(tokens[0])]).feed({1: ids})[0]
    assert_close(found, model(**inputs).logits[0, -1].float(), atol=0.125, rtol=0)


def test_layout_of_two_streams(backbone):
    stream = torch.zeros(2, backbone.tokens_per_frame, backbone.token_size)
    prompt = backbone.prompt([Stream(stream), Stream(stream[:1])])
    ids = {
        tuple(row.tolist()): i for i, row in enumerate(backbone.model.get_input_embeddings().weight)
    }
    found = "".join(
        "." if seen else backbone.tokenizer.convert_ids_to_tokens(ids[tuple(row.tolist())])
        for row, seen in zip(prompt.embeddings.detach(), prompt.visual, strict=True)
    )
    frame = "." * backbone.tokens_per_frame
    assert found.endswith(
        f"<|im_end|>Ċ<|im_start|>userĊFrame1:Ġ<img>{frame}</img>ĊFrame2:Ġ<img>{frame}</img>"
        f"ĊFrame1:Ġ<img>{frame}</img>"
    )


def heard(backbone, pixels):
    calls = []
    with torch.no_grad(), listen(backbone.attention_layers(), calls.append, backbone.positions):
        backbone.encode(pixels)
    return calls


def test_the_class_token_is_a_position_and_no_token(backbone):
    assert (backbone.patch_grid, backbone.positions) == ((8, 8), 65)
    assert backbone.patch_places.flatten().tolist() == [*range(1, 65)]
    assert (backbone.token_grid, backbone.tokens_per_frame) == ((4, 4), 16)


def test_context_and_output_are_recomputed_from_what_was_heard(backbone, frames):
    calls = heard(backbone, frames)
    assert [call.layer for call in calls] == [0, 1, 2]
    for call, layer in zip(calls, backbone.attention_layers(), strict=True):
        assert call.query.shape == (6, 4, 65, 8)
        weights = (call.query @ call.key.mT / 8**0.5).softmax(-1)
        assert_close(call.context, (weights @ call.value).transpose(1, 2).flatten(2))
        assert_close(call.output, backbone.output_projection(layer)(call.context))


def test_pixels_are_normalised_as_images_not_as_videos(tiny, tmp_path, frames):
    other = shutil.copytree(tiny, tmp_path / "other")
    settings = json.loads((other / "processor_config.json").read_text())
    settings["video_processor"] |= {"image_mean": [0.4] * 3, "image_std": [0.3] * 3, "size": 30}
    (other / "processor_config.json").write_text(json.dumps(settings))
    found = load_backbone(str(other), "float32").normalise(frames)
    assert torch.equal(found, load_backbone(str(tiny), "float32").normalise(frames))


def test_a_tokenizer_of_another_chat_is_refused(tiny, tmp_path):
    """As that of InternLM2, in some sizes of InternVL2.5."""
    other = shutil.copytree(tiny, tmp_path / "other")
    for file in other.glob("tokenizer*.json"):
        file.write_text(file.read_text().replace("<|endoftext|>", "</s>"))
    with pytest.raises(
        BackboneError, match=r"lacks '<\|endoftext\|>'(.|\n)*another model of the family"
    ):
        load_backbone(str(other), "float32")
