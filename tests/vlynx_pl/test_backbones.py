import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PerceptionLMConfig,
    Qwen2Config,
    Qwen3_5Config,
)

from tests.conftest import MINIATURE
from tests.vlynx_pl.conftest import randomise
from vlynx_pl.adapters import Lora
from vlynx_pl.backbones import BackboneError, backbone_without_weights, load_backbone


@pytest.fixture
def untouched():
    return AutoModelForImageTextToText.from_pretrained(MINIATURE, dtype=torch.float32).eval()


@torch.no_grad()
def reference_tokens(model, pixels):
    return model.model.get_video_features(pixels, return_dict=True).pooler_output


@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_frames_are_resized_and_normalised_as_the_models_processor_does(backbone, size):
    frames = torch.randint(0, 256, (1, 2, 3, *size), dtype=torch.uint8)
    processor = AutoProcessor.from_pretrained(MINIATURE).video_processor
    wanted = processor(list(frames), return_tensors="pt").pixel_values_videos
    assert_close(backbone.normalise(frames), wanted, atol=1e-6, rtol=0)


@torch.no_grad()
def test_tokens_are_those_of_the_untouched_model_bit_for_bit(backbone, untouched, videos):
    pixels = backbone.normalise(videos)
    wanted = reference_tokens(untouched, pixels)
    assert wanted.shape == (2, 3 * backbone.tokens_per_frame + 1, backbone.hidden_size)
    assert torch.equal(backbone.encode(videos).flatten(1, 2), wanted[:, :-1])
    assert torch.equal(backbone.newline, wanted[0, -1])


@torch.no_grad()
def test_adapters_off_and_new_adapters_leave_the_base_bit_for_bit(backbone, untouched, videos):
    wanted = reference_tokens(untouched, backbone.normalise(videos))[:, :-1]
    backbone.add_vision_adapter("3d", Lora(8, 16))
    assert torch.equal(backbone.encode(videos, "3d").flatten(1, 2), wanted), "B is 0 at first"
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    changed = backbone.encode(videos, "3d")
    assert not torch.equal(changed.flatten(1, 2), wanted)
    backbone.add_vision_adapter("audio", Lora(4, 8))
    randomise(backbone.vision_adapters, "audio", 0.5)
    assert not torch.equal(backbone.encode(videos, "audio"), changed)
    assert torch.equal(backbone.encode(videos, "3d"), changed)
    assert torch.equal(backbone.encode(videos).flatten(1, 2), wanted)


def test_encoding_switches_no_requires_grad(backbone, videos):
    backbone.add_vision_adapter("3d", Lora(4, 8))
    backbone.add_llm_adapter("task", Lora(4, 8))
    before = {name: p.requires_grad for name, p in backbone.named_parameters()}
    assert {name for name, trained in before.items() if trained} == {
        name for name in before if "lora_" in name
    }
    tokens = backbone.encode(videos, "3d")
    backbone.encode(videos)
    tokens.sum().backward()
    assert before == {name: p.requires_grad for name, p in backbone.named_parameters()}
    adapted = [p for name, p in backbone.named_parameters() if ".3d." in name]
    assert adapted and all(p.grad is not None for p in adapted)


def test_dropout_is_the_only_thing_that_trains_in_training_mode(backbone):
    backbone.add_vision_adapter("3d", Lora(4, 8))
    training = {name for name, module in backbone.train().named_modules() if module.training}
    assert training and all("lora_dropout" in name for name in training)
    assert not any(module.training for module in backbone.eval().modules())


def test_fingerprint_ignores_adapters_and_notices_weights(backbone):
    twin = load_backbone(str(MINIATURE), "float32")
    backbone.add_vision_adapter("3d", Lora(4, 8))
    assert backbone.fingerprint == twin.fingerprint
    other = load_backbone(str(MINIATURE), "float32")
    with torch.no_grad():
        other.model.model.multi_modal_projector.linear_1.bias[0] += 1
    assert other.fingerprint != twin.fingerprint


@pytest.mark.parametrize("size", ["0.5b", "7b"])
def test_token_lengths_of_the_real_models(size):
    real = backbone_without_weights(f"llava-hf/llava-onevision-qwen2-{size}-ov-hf")
    assert real.frame_size == (384, 384)
    assert real.patch_grid == (27, 27)
    lengths = {frames: frames * real.tokens_per_frame + 1 for frames in (1, 10, 20, 30, 32, 48)}
    assert lengths == {1: 197, 10: 1961, 20: 3921, 30: 5881, 32: 6273, 48: 9409}
    assert len(real.attention_layers()) == 26
    tokens = real.encode(torch.zeros(1, 3, 3, 384, 384, device="meta"))
    assert tokens.shape == (1, 3, 196, real.hidden_size)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(2, 3, 64, 64), r"\(B, T, 3, H, W\)"),
        (torch.zeros(1, 2, 3, 32, 32), "pass uint8 frames"),
    ],
)
def test_frames_of_a_wrong_shape_are_refused(backbone, frames, message):
    with pytest.raises(ValueError, match=message):
        backbone.encode(frames)


def test_an_unknown_adapter_is_named(backbone, videos):
    with pytest.raises(KeyError, match="no adapter 'audio'"):
        backbone.encode(videos, "audio")


def test_an_adapter_cannot_be_added_twice_or_named_like_a_path(backbone):
    backbone.add_vision_adapter("3d", Lora(4, 8))
    with pytest.raises(ValueError, match="exists already"):
        backbone.add_vision_adapter("3d", Lora(4, 8))
    with pytest.raises(ValueError, match="letters, digits"):
        backbone.add_vision_adapter("../3d", Lora(4, 8))


def test_a_missing_backbone_is_one_clear_error(tmp_path):
    with pytest.raises(BackboneError, match=r"nowhere.*cannot be loaded(.|\n)*save_pretrained"):
        load_backbone(str(tmp_path / "nowhere"))


def test_an_unsupported_family_is_named(tmp_path):
    Qwen2Config().save_pretrained(tmp_path)
    with pytest.raises(
        BackboneError, match=r"no backbones have model_type 'qwen2'; installed .*llava_"
    ):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            Qwen3_5Config,
            "this LLM have linear attention, in which questions .* see each other",
        ),
        (PerceptionLMConfig, "vision encoder is from timm, whose attention cannot be observed"),
    ],
)
def test_a_family_that_cannot_be_supported_says_why(tmp_path, config, reason):
    config().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=f"no backbones have model_type .*{reason}"):
        load_backbone(str(tmp_path))
