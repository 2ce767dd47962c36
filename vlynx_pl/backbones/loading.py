"""From a folder or hub name to a frozen backbone; the only place that knows all families."""

import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PretrainedConfig

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.llava_onevision import LlavaOnevisionBackbone
from vlynx_pl.io.errors import PARSE_ERRORS, UserError

FAMILIES: dict[str, type[LlavaOnevisionBackbone]] = {"llava_onevision": LlavaOnevisionBackbone}


class BackboneError(UserError):
    """A model that cannot be loaded or is of a family not supported."""


def load_backbone(
    path: str, dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
) -> VideoBackbone:
    """Load a frozen Video LLM.

    Args:
        path: folder of a saved model, or its name on the Hugging Face hub.
        dtype: type of the frozen weights; LoRA weights are always float32.

    Raises:
        BackboneError: nothing is there, it cannot be read, or its family is not supported.
    """
    config: PretrainedConfig = _load(AutoConfig, path)
    family = _family(config, path)
    model, told = _load(
        AutoModelForImageTextToText,
        path,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        use_safetensors=True,  # never a pickle
        output_loading_info=True,
    )
    if missing := sorted(told["missing_keys"]):
        raise BackboneError(
            f"backbone {path!r} lacks {len(missing)} weights, for example {missing[0]}, which "
            "would be random; copy or download it again"
        )
    return family(path, model, _load(AutoProcessor, path))


def _family(config: PretrainedConfig, path: str) -> type[LlavaOnevisionBackbone]:
    if config.model_type not in FAMILIES:
        raise BackboneError(
            f"{path}: model_type {config.model_type!r} is not supported; supported: "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[config.model_type]


def _load(auto_class: Any, path: str, **options: object) -> Any:
    try:
        # Asked for neither here nor by a question: code that lies beside the weights.
        return auto_class.from_pretrained(path, trust_remote_code=False, **options)
    # RuntimeError is what transformers raises at weights of other sizes than the settings say.
    except (
        *PARSE_ERRORS,
        SafetensorError,
        pickle.UnpicklingError,
        AttributeError,
        RuntimeError,
    ) as error:
        kind = "folder" if Path(path).exists() else "neither a folder here nor reachable on the hub"
        raise BackboneError(
            f"backbone {path!r} ({kind}) cannot be loaded: {error}\nGive a folder written by "
            "save_pretrained, or a hub name and a way to reach the hub."
        ) from error
