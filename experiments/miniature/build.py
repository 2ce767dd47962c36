"""Builds the untrained miniature: model, tokenizer and processor of LLaVA-OneVision's classes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

END = "<|im_end|>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", END, "<image>", "<video>"]
# ChatML as in Qwen2-Instruct; {"type": "video"} is the place of the video.
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text()


def build_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE, for any text; frequent words of ``texts`` become single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=SPECIAL[1:],
        eos_token=END,
        pad_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast, size: int, patch: int
) -> LlavaOnevisionProcessor:
    """Build the processor, with SigLIP's normalisation, for frames of ``size`` × ``size``."""
    pixels: dict[str, Any] = {
        "size": {"height": size, "width": size},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[size, size]], **pixels),
        video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **pixels),
        tokenizer=tokenizer,
        num_image_tokens=(size // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        video_token="<video>",
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, size: int, model: dict[str, Any]
) -> LlavaOnevisionForConditionalGeneration:
    """Build the model with random weights."""
    vision = SiglipVisionConfig(
        hidden_size=model["vision_width"],
        intermediate_size=model["vision_mlp"],
        num_hidden_layers=model["vision_layers"],
        num_attention_heads=model["vision_heads"],
        image_size=size,
        patch_size=model["patch_size"],
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=model["llm_width"],
        intermediate_size=model["llm_mlp"],
        num_hidden_layers=model["llm_layers"],
        num_attention_heads=model["llm_heads"],
        num_key_value_heads=model["llm_kv_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=model["initializer_range"],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[size, size]],
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=True,
    )
    built = LlavaOnevisionForConditionalGeneration(config)
    built.generation_config.eos_token_id = tokenizer.eos_token_id
    built.generation_config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        built.model.image_newline.normal_(0, model["initializer_range"])
    return built
