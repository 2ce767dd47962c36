"""Loads a frozen backbone from a folder or hub name."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
)

from vlynx_pl.backbones.base import BackboneError, VideoBackbone
from vlynx_pl.backbones.quantization import Quantization, loading_options, mark_quantized
from vlynx_pl.io.plugins import installed, load_class

GROUP: Final = "vlynx.backbones"
_OWN: Final[Mapping[str, str]] = {
    "internvl": "vlynx_pl.backbones.internvl:InternVLBackbone",
    "llava_onevision": "vlynx_pl.backbones.llava_onevision:LlavaOnevisionBackbone",
    "qwen2_5_vl": "vlynx_pl.backbones.qwen_vl:Qwen25VLBackbone",
    "qwen3_vl": "vlynx_pl.backbones.qwen_vl:Qwen3VLBackbone",
    "smolvlm": "vlynx_pl.backbones.smolvlm:SmolVLMBackbone",
}

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


def load_backbone(
    path: str,
    dtype: Dtype = "bfloat16",
    quantization: Quantization | None = None,
    side: int | None = None,
) -> VideoBackbone:
    """Load a frozen Video LLM.

    Args:
        path: folder of a saved model, or its name on the Hugging Face hub.
        dtype: type of the frozen weights; LoRA weights are always float32.
        quantization: of the LLM's linear layers: ``nf4`` (4 bits) or ``int8`` (8 bits), through
            bitsandbytes. The vision encoder, the projector, embeddings and the output head keep
            ``dtype``.
        side: height and width in pixels to which frames are resized; null is the family's default.

    Raises:
        BackboneError: nothing is there, it cannot be read, its weights and its configuration do not
            belong together, its family does not support it, or bitsandbytes cannot run.
    """
    family = _family(_load(AutoConfig, path), path)
    if dtype == "float16" and not family.float16:
        raise BackboneError(
            f"backbone.dtype=float16: activations of {path} exceed its range; give bfloat16, or "
            "float32"
        )
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "attn_implementation": "sdpa",
        "use_safetensors": True,  # never a pickle
        "output_loading_info": True,
    }
    if quantization is not None:
        options |= _quantizing(quantization, options["dtype"], family)
    model, loading = _load(AutoModelForImageTextToText, path, **options)
    _refuse_other_weights(path, model, loading)
    backbone = family(path, model, _load(AutoProcessor, path), side)
    if quantization is not None:
        backbone.quantization = quantization
        mark_quantized(backbone.language_model, quantization)
    return backbone


def backbone_without_weights(
    path: str, dtype: Dtype = "bfloat16", side: int | None = None
) -> VideoBackbone:
    """Build a Video LLM on the meta device, from its configuration alone.

    Args:
        path: as for :func:`load_backbone`. The configurations of the paper's models are part of
            this package, so that their names on the hub need no network.
        dtype: type of the frozen weights.
        side: as for :func:`load_backbone`.

    Raises:
        BackboneError: the configuration cannot be loaded, or its family is not supported.
    """
    published = resources.files("vlynx_pl.backbones") / "published"
    name = Path(path).name.removesuffix("-hf").removesuffix("-HF")
    known = published / f"{name}.json"
    if known.is_file():
        config = AutoConfig.for_model(**json.loads(known.read_text()))
    else:
        config = _load(AutoConfig, path)
    family = _family(config, path)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, dtype))
    return family(path, model, None, side)


def _family(config: PretrainedConfig, path: str) -> type[VideoBackbone]:
    everything = installed(GROUP, _OWN)
    found = [one for one in everything if one.name == config.model_type]
    if len(found) != 1:
        raise BackboneError(
            f"{path}: {len(found) or 'no'} backbones have model_type {config.model_type!r}; "
            f"installed are {', '.join(one.name for one in everything)}. {_remedy(config)}"
        )
    family: type[VideoBackbone] = load_class(found[0], GROUP, VideoBackbone)
    return family


def _remedy(config: PretrainedConfig) -> str:
    """What to do about an unsupported family, and why nothing can be done about some."""
    llm = getattr(config, "text_config", config)
    encoder = getattr(config, "vision_config", None)
    give = "Give a model of one of these"
    if "linear_attention" in (getattr(llm, "layer_types", None) or ()):
        return (
            f"{give}: layers of this LLM have linear attention, in which questions that share a "
            "prefix would see each other"
        )
    if getattr(encoder, "model_type", None) == "timm_wrapper":
        return f"{give}: this vision encoder is from timm, whose attention cannot be observed"
    return f"{give}, or install a package with an entry point of that name in {GROUP}"


def _refuse_other_weights(
    path: str, model: PreTrainedModel, loading: Mapping[str, set[str]]
) -> None:
    """Raise BackboneError if weights and configuration do not belong together.

    Weights that transformers knows to be obsolete, such as saved frequencies of RoPE, are no fault.
    Neither is an output head where the configuration does not say whether it is the embeddings: the
    default of InternVL's class is that it is, and its published weights have a head of their own.
    """
    if missing := sorted(loading["missing_keys"]):
        raise BackboneError(
            f"backbone {path!r} lacks {len(missing)} weights, for example {missing[0]}, which "
            "would be random; copy or download it again"
        )
    if extra := sorted(loading["unexpected_keys"]):
        raise BackboneError(
            f"backbone {path!r} has {len(extra)} weights that its configuration has no place for, "
            f"for example {extra[0]}; give the configuration that was saved with them, or remove "
            "them"
        )
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    settings, _ = PretrainedConfig.get_config_dict(path)
    if settings.get("tie_word_embeddings") and head.weight is not embeddings.weight:
        raise BackboneError(
            f"backbone {path!r}: its configuration says that the output head is the embeddings "
            "(tie_word_embeddings), but its weights have another head; set it to false if the "
            "model was trained with its own head, or remove lm_head from the weights"
        )


def _quantizing(
    quantization: Quantization, dtype: torch.dtype, family: type[VideoBackbone]
) -> dict[str, Any]:
    try:
        return loading_options(quantization, dtype, family.never_quantized)
    except (ImportError, OSError, RuntimeError) as error:
        raise BackboneError(
            f"backbone.quantization={quantization} needs bitsandbytes, which cannot be used here "
            f"({error}); install it with pip install -c constraints.txt -e '.[quantization]', or "
            "leave quantization null"
        ) from error


def _load(auto_class: Any, path: str, **options: object) -> Any:
    try:
        # Never run code that is saved with the weights, nor ask for permission.
        return auto_class.from_pretrained(path, trust_remote_code=False, **options)
    except Exception as error:  # what damaged files raise in transformers is of every kind
        kind = "folder" if Path(path).exists() else "neither a folder here nor reachable on the hub"
        raise BackboneError(
            f"backbone {path!r} ({kind}) cannot be loaded: {error}\nGive a folder written by "
            "save_pretrained, or a hub name and a way to reach the hub."
        ) from error
