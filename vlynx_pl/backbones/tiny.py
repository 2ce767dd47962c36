"""Tiny models of every family with random weights, for tests and for trying out commands."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_folder

_CHATML: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_VISION: Final = {"num_attention_heads": 4}
_LLM: Final = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.2,  # so that answers differ
    "bos_token_id": None,
}


def write_tiny(family: str, folder: Path) -> None:
    """Write a tiny model with its tokenizer and processor, as ``save_pretrained`` does.

    Args:
        family: its ``model_type``.
        folder: must not exist.

    Raises:
        UserError: the family is unknown, or the folder exists.
    """
    if family not in TINY:
        raise UserError(f"there is no tiny model of {family!r}; give one of {', '.join(TINY)}")
    if folder.exists():
        raise UserError(f"{folder} exists; give a new folder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = TINY[family]()
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)


def tiny_tokenizer(
    special: Sequence[str],
    template: str | None = None,
    names: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """Make a ChatML tokenizer in which every byte is a token.

    Args:
        special: tokens beside ChatML's own.
        template: chat template; None if the processor has its own.
        names: attribute of the tokenizer → one of ``special``, for processors that read it there.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*_CHATML, *special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*_CHATML, *special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_CHATML[-1],
        pad_token=_CHATML[0],
        chat_template=template,
        extra_special_tokens=names or [],
    )


def _llava_onevision() -> tuple[PreTrainedModel, ProcessorMixin]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    side, patch = 32, 4
    tokenizer = tiny_tokenizer(["<image>", "<video>"], _template("<video>\n"))
    pixels: dict[str, Any] = {
        "size": {"height": side, "width": side},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(image_grid_pinpoints=[[side, side]], **pixels),
        video_processor=LlavaOnevisionVideoProcessor(do_sample_frames=False, **pixels),
        tokenizer=tokenizer,
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
    )
    vision = _VISION | {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "image_size": side,
        "patch_size": patch,
        "vision_use_head": False,
    }
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=_LLM | {"model_type": "qwen2", **_ids(tokenizer)},
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[side, side]],
        image_token_index=tokenizer.get_vocab()["<image>"],
        video_token_index=tokenizer.get_vocab()["<video>"],
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.image_newline)
    return model, processor


def _internvl() -> tuple[PreTrainedModel, ProcessorMixin]:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    from vlynx_pl.backbones.convert import TOKENS, internvl_processor

    side, patch = 32, 4
    tokenizer = tiny_tokenizer([*TOKENS.values()], names=TOKENS)
    vision = _VISION | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "image_size": side,
        "patch_size": patch,
        "attention_bias": True,
        "layer_scale_init_value": 1.0,
        "initializer_range": 0.2,
    }
    config = InternVLConfig(
        vision_config=vision,
        text_config=_LLM | {"model_type": "qwen2", **_ids(tokenizer)},
        image_token_id=tokenizer.get_vocab()[TOKENS["context_image_token"]],
        image_seq_length=(side // patch // 2) ** 2,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    embeddings = model.model.vision_tower.embeddings
    for parameter in (embeddings.cls_token, embeddings.position_embeddings):
        torch.nn.init.normal_(parameter)  # transformers' initial value is 0
    return model, internvl_processor(tokenizer, config)


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The LLM's settings that depend on its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _template(video: str) -> str:
    """A chat template in ChatML, in which a video is written as ``video``."""
    return (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
        "{% if turn.content is string %}{{ turn.content }}{% else %}"
        "{% for part in turn.content %}"
        "{% if part.type == 'video' %}" + video + "{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


TINY: Final[Mapping[str, Callable[[], tuple[PreTrainedModel, ProcessorMixin]]]] = {
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
}
"""model_type → a function that makes a model and its processor."""
