"""Converts InternVL from its authors' layout to that of transformers.

InternVL2.5-4B is published in the authors' layout only, with Python code beside the weights. That
code is never run. Settings and weights get other names, and keep their values. The names are those
of github.com/OpenGVLab/InternVL and of transformers' InternVLForConditionalGeneration.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
)

from vlynx_pl.backbones.base import BackboneError
from vlynx_pl.io.errors import PARSE_ERRORS
from vlynx_pl.io.files import atomic_folder
from vlynx_pl.io.progress import track

TOKENS: Final[Mapping[str, str]] = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""Attribute of the tokenizer → special token, as transformers' processor of InternVL asks for."""

_TEMPLATE: Final = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
    "{% if turn.content is string %}{{ turn.content }}{% else %}{% for part in turn.content %}"
    "{% if part.type == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part.type == 'video' %}<video>\n"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, of all InternVLs

_VISION: Final[Mapping[str, str]] = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_act": "hidden_act",
    "norm_type": "norm_type",
    "layer_norm_eps": "layer_norm_eps",
    "attention_bias": "qkv_bias",
    "use_qk_norm": "qk_normalization",
}
"""Setting in transformers → setting of the original."""
_LLM: Final = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta"),
)
_LLM_OPTIONAL: Final = (
    *("head_dim", "hidden_act", "attention_bias", "max_position_embeddings", "rope_scaling"),
    *("layer_types", "use_sliding_window", "sliding_window", "max_window_layers"),
)
_FIXED: Final[Mapping[str, object]] = {
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "select_layer": -1,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
}
"""Setting of the original → its only value that can be converted."""

_TOWER: Final = "model.vision_tower"
_PREFIXES: Final[Mapping[str, str]] = {
    "vision_model.embeddings.class_embedding": f"{_TOWER}.embeddings.cls_token",
    "vision_model.embeddings.position_embedding": f"{_TOWER}.embeddings.position_embeddings",
    "vision_model.embeddings.patch_embedding.": (
        f"{_TOWER}.embeddings.patch_embeddings.projection."
    ),
    "vision_model.encoder.layers.": f"{_TOWER}.encoder.layer.",
    "mlp1.0.": "model.multi_modal_projector.layer_norm.",
    "mlp1.1.": "model.multi_modal_projector.linear_1.",
    "mlp1.3.": "model.multi_modal_projector.linear_2.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
}
_IN_VISION_LAYER: Final[Mapping[str, str]] = {
    ".attn.proj.": ".attention.projection_layer.",
    ".attn.": ".attention.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
}

_Stored = dict[str, tuple[Path, tuple[int, ...]]]  # name → file and shape


def convert_internvl(source: Path, folder: Path) -> None:
    """Write an InternVL with a Qwen LLM in the layout of transformers, one file at a time.

    Args:
        source: folder with the original's configuration, tokenizer and safetensors.
        folder: must not exist.

    Raises:
        BackboneError: the folder exists, or the source is damaged, incomplete, pickled or of
            another kind.
        OSError: the folder cannot be written.
    """
    if folder.exists():
        raise BackboneError(f"{folder} exists; give a new folder")
    original = _read_settings(source)
    stored = _stored(source)
    tokenizer = _tokenizer(source)
    model = _empty_model(original, tokenizer, source)
    config: Any = model.config
    tied = original["llm_config"].get("tie_word_embeddings", False)
    own_head = "language_model.lm_head.weight" in stored
    config.tie_word_embeddings = tied and not own_head
    _check_weights(stored, model, source)
    if tied and own_head:
        _check_head(stored, source)
    with atomic_folder(folder) as unfinished:
        _write_weights(stored, unfinished)
        config.architectures = [type(model).__name__]
        config.save_pretrained(unfinished)
        internvl_processor(tokenizer, config).save_pretrained(unfinished)


def internvl_processor(
    tokenizer: PreTrainedTokenizerBase, config: InternVLConfig
) -> InternVLProcessor:
    """Make the processor of a model.

    Args:
        tokenizer: has :data:`TOKENS` as attributes.
        config: of the model.
    """
    vision: Any = config.vision_config
    height, width = vision.image_size
    pixels: dict[str, Any] = {
        "size": {"height": height, "width": width},
        "image_mean": _MEAN,
        "image_std": _STD,
    }
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(**pixels),
        video_processor=InternVLVideoProcessor(**pixels),
        tokenizer=tokenizer,
        image_seq_length=config.image_seq_length,
        chat_template=_TEMPLATE,
    )


def native_names(name: str) -> list[str]:
    """Return the names in transformers of a weight of the original: three of one for Q, K and V."""
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    if name.startswith(f"{_TOWER}.encoder.layer."):
        for old, new in _IN_VISION_LAYER.items():
            name = name.replace(old, new)
    if ".attention.qkv." in name:
        return [name.replace(".qkv.", f".{part}_proj.") for part in "qkv"]
    return [name]


def _read_settings(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        found = {name: settings[name] for name in _FIXED}
        llm = settings["llm_config"]["model_type"]
        side, forced = settings["vision_config"]["image_size"], settings.get("force_image_size")
    except PARSE_ERRORS as error:
        raise BackboneError(
            f"{path} is not the configuration of an original InternVL ({error!r}); give the folder "
            "that its authors publish"
        ) from error
    for name, value in found.items():
        if value != _FIXED[name]:
            raise BackboneError(
                f"{path} has {name}={value!r}, and only {_FIXED[name]!r} can be converted; give an "
                "original InternVL2.5, or load this folder as it is"
            )
    if llm not in {"qwen2", "qwen3"}:
        raise BackboneError(
            f"{path}: the LLM is {llm!r}, and only qwen2 and qwen3 can be converted; give another "
            "size, such as InternVL2_5-4B"
        )
    if forced is not None and forced != side:
        raise BackboneError(
            f"{path}: the weights are for {side} pixels, but force_image_size is {forced}; give a "
            "model of one size"
        )
    return settings


def _empty_model(
    original: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, source: Path
) -> InternVLForConditionalGeneration:
    """The model on the meta device."""
    llm, vision = original["llm_config"], original["vision_config"]
    try:
        text = {name: llm[name] for name in _LLM}
        text |= {name: llm[name] for name in _LLM_OPTIONAL if name in llm}
        ids = tokenizer.get_vocab()
        ratio = original["downsample_ratio"]
        config = InternVLConfig(
            vision_config={new: vision[old] for new, old in _VISION.items()},
            text_config=text | {"eos_token_id": ids["<|im_end|>"], "bos_token_id": None},
            image_token_id=ids[TOKENS["context_image_token"]],
            image_seq_length=int(vision["image_size"] // vision["patch_size"] * ratio) ** 2,
            downsample_ratio=ratio,
        )
        with torch.device("meta"):
            return InternVLForConditionalGeneration(config)
    except Exception as error:  # transformers and huggingface_hub have several of their own
        raise BackboneError(
            f"{source}: a setting or a token is missing or wrong ({error!r}); download config.json "
            "and the tokenizer's files again"
        ) from error


def _tokenizer(source: Path) -> PreTrainedTokenizerBase:
    try:
        # By its own class, as AutoTokenizer warns of the unknown kind of model.
        return Qwen2Tokenizer.from_pretrained(source, extra_special_tokens=dict(TOKENS))
    except Exception as error:  # tokenizers raises plain ones
        raise BackboneError(
            f"{source}: its tokenizer cannot be loaded ({error}); download its files again"
        ) from error


def _stored(source: Path) -> _Stored:
    files = sorted(source.glob("*.safetensors"))
    if not files:
        pickled = next(source.glob("*.bin"), None)
        raise BackboneError(
            f"{source} has no .safetensors file"
            + (f"; {pickled.name} may run code when it is read, so it is not" if pickled else "")
            + ". Download the weights as safetensors"
        )
    stored: _Stored = {}
    for file in files:
        try:
            with safe_open(file, "pt") as weights:
                shapes = {
                    name: tuple(weights.get_slice(name).get_shape())
                    for name in weights.offset_keys()
                }
        except SafetensorError as error:
            raise BackboneError(f"{file} is damaged ({error}); download it again") from error
        for name, shape in shapes.items():
            if name in stored:
                raise BackboneError(
                    f"{name} is both in {stored[name][0].name} and in {file}; remove one of them"
                )
            stored[name] = file, shape
    return stored


def _check_weights(stored: _Stored, model: InternVLForConditionalGeneration, source: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    found: dict[str, tuple[float, ...]] = {}
    for name, (_, shape) in stored.items():
        names = native_names(name)
        found |= dict.fromkeys(names, (shape[0] / len(names), *shape[1:]) if shape else shape)
    faults = {
        "missing": wanted.keys() - found.keys(),
        "not part of the model": found.keys() - wanted.keys(),
        "of a wrong shape": {name for name in wanted & found.keys() if wanted[name] != found[name]},
    }
    if any(faults.values()):
        said = [
            f"{len(names)} {fault}, for example {min(names)}"
            for fault, names in faults.items()
            if names
        ]
        raise BackboneError(
            f"{source}: of its weights {'; '.join(said)}. Its files do not belong together, or one "
            "is lacking; download them again"
        )


def _check_head(stored: _Stored, source: Path) -> None:
    head, embedding = (
        _read(stored[f"language_model.{name}"][0], f"language_model.{name}")
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    if not torch.equal(head, embedding):
        raise BackboneError(
            f"{source}: config.json says that the output head is the embeddings "
            "(llm_config.tie_word_embeddings), but the weights have another head; set it to false "
            "if the model was trained with its own head, or remove lm_head from the weights"
        )


def _read(file: Path, name: str) -> Tensor:
    with safe_open(file, "pt") as weights:
        return weights.get_tensor(name)


def _write_weights(stored: _Stored, folder: Path) -> None:
    """Write one file for each of the original's, and the index of all."""
    files = sorted({file for file, _ in stored.values()})
    places: dict[str, str] = {}
    size = 0
    for number, file in enumerate(track(files, "Converting files"), 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors: dict[str, Tensor] = {}
        with safe_open(file, "pt") as weights:
            for old in weights.offset_keys():
                new = native_names(old)
                parts = weights.get_tensor(old).chunk(len(new))
                tensors |= dict(zip(new, parts, strict=True))
        save_file(tensors, folder / name, {"format": "pt"})
        places |= dict.fromkeys(tensors, name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
