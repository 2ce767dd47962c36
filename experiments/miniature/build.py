"""Builds untrained miniatures: model, tokenizer and processor of transformers' own classes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
)

from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.backbones.llava_onevision import LlavaOnevisionBackbone
from vlynx_pl.backbones.qwen_vl import Qwen3VLBackbone

END = "<|im_end|>"
CHATML = ["<|endoftext|>", "<|im_start|>", END]


class Family(NamedTuple):
    """How the miniature of a family is built."""

    backbone: type[VideoBackbone]
    special: Sequence[str]  # tokens beside ChatML's
    texts: Sequence[str]  # of its prompts, for the tokenizer
    build: Callable[..., tuple[PreTrainedModel, ProcessorMixin]]
    last_block: Callable[[Any], nn.Module]  # of a model's vision encoder


def build_tokenizer(
    texts: Iterable[str], size: int, special: Sequence[str], template: str
) -> PreTrainedTokenizerFast:
    """Train byte-level BPE, for any text; frequent words of ``texts`` become single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*CHATML, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[*CHATML[1:], *special],
        eos_token=END,
        pad_token=CHATML[0],
        chat_template=template,
        model_max_length=2048,
    )


def _llava_onevision(
    tokenizer: PreTrainedTokenizerFast, size: int, model: dict[str, Any]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    pixels: dict[str, Any] = {
        "size": {"height": size, "width": size},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[size, size]], **pixels),
        video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **pixels),
        tokenizer=tokenizer,
        num_image_tokens=(size // model["patch_size"]) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
        image_token="<image>",
        video_token="<video>",
    )
    vision = SiglipVisionConfig(
        hidden_size=model["vision_width"],
        intermediate_size=model["vision_mlp"],
        num_hidden_layers=model["vision_layers"],
        num_attention_heads=model["vision_heads"],
        image_size=size,
        patch_size=model["patch_size"],
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(tie_word_embeddings=True, **_llm(tokenizer, model)),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[size, size]],
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=True,
    )
    built = LlavaOnevisionForConditionalGeneration(config)
    with torch.no_grad():
        built.model.image_newline.normal_(0, model["initializer_range"])
    return built, processor


def _qwen3_vl(
    tokenizer: PreTrainedTokenizerFast, size: int, model: dict[str, Any]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    pixels: dict[str, Any] = {
        "patch_size": model["patch_size"],
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": size**2, "longest_edge": 64 * size**2},
    }
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        video_processor=Qwen3VLVideoProcessor(do_sample_frames=False, **pixels),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
    channels = model["llm_width"] // model["llm_heads"]
    third = channels // 6
    rope = {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [channels // 2 - 2 * third, third, third],
        "mrope_interleaved": True,
    }
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        vision_config={
            "depth": model["vision_layers"],
            "hidden_size": model["vision_width"],
            "intermediate_size": model["vision_mlp"],
            "num_heads": model["vision_heads"],
            "patch_size": model["patch_size"],
            "out_hidden_size": model["llm_width"],
            "num_position_embeddings": (size // model["patch_size"]) ** 2,
            "deepstack_visual_indexes": model["deepstack"],
            "initializer_range": model["initializer_range"],
        },
        text_config=_llm(tokenizer, model) | {"head_dim": channels, "rope_parameters": rope},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _llm(tokenizer: PreTrainedTokenizerFast, model: dict[str, Any]) -> dict[str, Any]:
    """The LLM's settings."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": model["llm_width"],
        "intermediate_size": model["llm_mlp"],
        "num_hidden_layers": model["llm_layers"],
        "num_attention_heads": model["llm_heads"],
        "num_key_value_heads": model["llm_kv_heads"],
        "max_position_embeddings": 2048,
        "initializer_range": model["initializer_range"],
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }


FAMILIES = {
    "llava_onevision": Family(
        LlavaOnevisionBackbone,
        ["<image>", "<video>"],
        [],
        _llava_onevision,
        lambda model: model.model.vision_tower.encoder.layers[-1],
    ),
    "qwen3_vl": Family(
        Qwen3VLBackbone,
        ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
        [f"<{tenths / 10:.1f} seconds>" for tenths in range(100)],
        _qwen3_vl,
        lambda model: model.model.visual.blocks[-1],
    ),
}
"""model_type → how its miniature is built."""
