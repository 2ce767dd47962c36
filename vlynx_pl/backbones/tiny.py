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
_QWEN: Final = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN_VIDEO: Final = "<|vision_start|><|video_pad|><|vision_end|>"
_QWEN_PATCHES: Final[dict[str, Any]] = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
_QWEN_PIXELS: Final[dict[str, Any]] = {  # no frame is resized
    "size": {"shortest_edge": 64, "longest_edge": 2**24}
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


def _qwen2_5_vl() -> tuple[PreTrainedModel, ProcessorMixin]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = tiny_tokenizer(_QWEN, _template(_QWEN_VIDEO, system="You are a helpful assistant."))
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**_QWEN_PATCHES, **_QWEN_PIXELS),
        video_processor=Qwen2VLVideoProcessor(**_QWEN_PATCHES, **_QWEN_PIXELS),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
    vision = {
        **_qwen_vision(),
        "window_size": 24,  # 3 tokens, which does not divide the default of 14 tokens
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=_mrope_llm(tokenizer, [2, 3, 3]), **_qwen_ids(tokenizer)
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl() -> tuple[PreTrainedModel, ProcessorMixin]:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = tiny_tokenizer(_QWEN, _template(_QWEN_VIDEO))
    pixels = _QWEN_PIXELS | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**_QWEN_PATCHES, **pixels),
        video_processor=Qwen3VLVideoProcessor(**_QWEN_PATCHES, **pixels, do_sample_frames=False),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )
    vision = {
        **_qwen_vision(),
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    text = _mrope_llm(tokenizer, [4, 2, 2], mrope_interleaved=True) | {"head_dim": 16}
    config = Qwen3VLConfig(vision_config=vision, text_config=text, **_qwen_ids(tokenizer))
    return Qwen3VLForConditionalGeneration(config), processor


def _smolvlm() -> tuple[PreTrainedModel, ProcessorMixin]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    side, patch, scale = 36, 4, 3
    tokens = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>")
    tokenizer = tiny_tokenizer([*tokens, "<end_of_utterance>"])
    tokenizer.eos_token = "<end_of_utterance>"
    edge = {"longest_edge": side}
    pixels: dict[str, Any] = {"size": edge, "max_image_size": edge}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**pixels),
        video_processor=SmolVLMVideoProcessor(**pixels),
        tokenizer=tokenizer,
        image_seq_len=(side // patch // scale) ** 2,
    )
    vision = _VISION | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "image_size": side,
        "patch_size": patch,
        "initializer_range": 0.2,
    }
    config = SmolVLMConfig(
        vision_config=vision,
        text_config=_LLM | {"model_type": "llama", **_ids(tokenizer)},
        scale_factor=scale,
        image_token_id=tokenizer.get_vocab()["<image>"],
    )
    return SmolVLMForConditionalGeneration(config), processor


def _qwen_vision() -> dict[str, Any]:
    """Settings of both vision encoders."""
    return {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": _QWEN_PATCHES["patch_size"],
        "out_hidden_size": _LLM["hidden_size"],
        "initializer_range": 0.2,
    }


def _mrope_llm(
    tokenizer: PreTrainedTokenizerFast, section: list[int], **rope: Any
) -> dict[str, Any]:
    """Settings of an LLM whose axes have so many of a head's 8 frequencies each."""
    parameters = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section, **rope}
    return _LLM | _ids(tokenizer) | {"rope_parameters": parameters}


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Ids of the tokens that mark frames."""
    names = ("vision_start", "vision_end", "image", "video")
    vocabulary = tokenizer.get_vocab()
    return {f"{name}_token_id": vocabulary[token] for name, token in zip(names, _QWEN, strict=True)}


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The LLM's settings that depend on its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _template(video: str, system: str = "") -> str:
    """A chat template in ChatML, in which a video is written as ``video``.

    Args:
        video: text or special tokens.
        system: message before the first turn.
    """
    opening = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return opening + (
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
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
}
"""model_type → a function that makes a model and its processor."""
