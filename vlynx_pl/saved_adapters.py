"""Adapters saved by PEFT: which settings are supported, and how they are loaded.

PEFT builds an adapter from the settings in its folder, so that its tokens are PEFT's own. A setting
that does anything other than add LoRA matrices to layers is refused by name.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vlynx_pl.adapters import AdapterError, adapted_layers, adapter_tensors, add_adapter
from vlynx_pl.io.errors import PARSE_ERRORS, UserError

_WEIGHTS: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."  # PEFT's, of every tensor's name
_READ: Final = {
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern",
    "use_rslora", "use_dora", "lora_bias",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
}  # fmt: skip
"""Settings that define an adapter."""

_IGNORED: Final = {
    # Its origin:
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "runtime_config",
    # For layers other than nn.Linear, or used only with a setting that is refused:
    "fan_in_fan_out", "megatron_core", "qalora_group_size",
    # The start of training:
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
_DEFAULTS: Final = {
    field.name: {} if field.default is MISSING else field.default for field in fields(LoraConfig)
}
_INITIAL: Final = (
    True,
    False,
    "gaussian",
    "orthogonal",
    "eva",
)  # these do not change the base weights
_LARGEST: Final = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class SavedAdapter:
    """The settings of an adapter folder."""

    folder: Path
    config: LoraConfig
    made_with: Mapping[str, Any]  # backbone, fingerprint, frames; empty if plain PEFT saved it


def saved_config(folder: Path) -> SavedAdapter:
    """Read the settings of a saved adapter.

    Raises:
        AdapterError: the folder is not a PEFT adapter, or has a setting that is not supported.
    """
    if folder.is_file():
        raise AdapterError(
            f"{folder} is a file, not a folder; give the folder that holds adapter_config.json"
        )
    try:
        settings = json.loads((folder / "adapter_config.json").read_text())
        note = folder / "made_with.json"
        made_with = dict(json.loads(note.read_text()) if note.is_file() else {})
        for name, kind in (("fingerprint", str), ("drawing", dict)):
            if not isinstance(made_with.get(name, kind()), kind):
                raise ValueError(f"{name} in {note.name} is {made_with[name]!r:.60}")
        if not isinstance(settings, dict) or "peft_type" not in settings:
            raise ValueError("adapter_config.json has no peft_type")
        _refuse_unsupported(folder, settings)
        return SavedAdapter(folder, _config(settings), made_with)
    except UserError:
        raise
    except PARSE_ERRORS as error:
        raise AdapterError(
            f"{folder} is not a PEFT adapter ({error}); align or tune it first, or give the folder "
            "that holds adapter_config.json, such as runs/…/adapters/vision-3d"
        ) from error


def _refuse_unsupported(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise AdapterError for a setting that has an effect and is not supported."""
    if settings["peft_type"] != "LORA":
        raise _unsupported(folder, settings, "peft_type", "train a LoRA adapter")
    for name in sorted(settings.keys() - _READ - _IGNORED - {"peft_type"}):
        value, remedy = settings[name], "train the adapter without it"
        if name == "init_lora_weights":
            if value not in _INITIAL:
                remedy = (
                    "it belongs to base weights that PEFT had changed: let PEFT save it as plain "
                    f"LoRA (path_initial_model_for_weight_conversion), or {remedy}"
                )
                raise _unsupported(folder, settings, name, remedy)
        elif value not in (_DEFAULTS.get(name, {}), None, False, []):
            if name not in _DEFAULTS:
                remedy = f"the PEFT installed here does not know it: upgrade PEFT, or {remedy}"
            raise _unsupported(folder, settings, name, remedy)


def _unsupported(folder: Path, settings: Mapping[str, Any], name: str, remedy: str) -> AdapterError:
    return AdapterError(
        f"{folder}: {name}={settings[name]!r:.80} in its adapter_config.json is not supported, "
        f"only LoRA, rsLoRA and DoRA are; {remedy}"
    )


def _config(settings: Mapping[str, Any]) -> LoraConfig:
    """Make PEFT's configuration of a folder's settings; raise ValueError for a bad number."""
    config = LoraConfig(**{name: settings[name] for name in _READ & settings.keys()})
    config.rank_pattern = dict(config.rank_pattern or {})
    config.alpha_pattern = dict(config.alpha_pattern or {})
    for rank in (config.r, *config.rank_pattern.values()):
        if type(rank) is not int or not 0 < rank < 2**31:  # not a bool
            raise ValueError(f"r or rank_pattern has {rank!r:.60}, not a whole number above 0")
    for alpha in (config.lora_alpha, *config.alpha_pattern.values()):
        if type(alpha) not in (int, float) or not 0 < alpha < _LARGEST:
            raise ValueError(f"lora_alpha or alpha_pattern has {alpha!r:.60}, not a number above 0")
    if not 0 <= config.lora_dropout < 1:
        raise ValueError(f"lora_dropout is {config.lora_dropout!r}, not from 0 to below 1")
    return config


def load_adapter(
    root: nn.Module, wrapper: PeftModel | None, name: str, saved: SavedAdapter
) -> PeftModel:
    """Inject a saved adapter into ``root``, in place, under any name.

    Only the tensors that the settings ask for are loaded, and memory is allocated only after their
    shapes have been checked.

    Args:
        root: the vision tower or the LLM.
        wrapper: the PEFT model already around ``root``, or None for its first adapter.
        name: adapter name, a modality or a task.
        saved: from :func:`saved_config`.

    Raises:
        AdapterError: the weights are missing, damaged or not finite, or belong to another model or
            to other settings.
        UserError: see :func:`add_adapter`.
    """
    folder = saved.folder
    tensors = _weights(folder)
    _refuse_other_model(root, folder / _WEIGHTS, tensors)
    try:
        wrapper = add_adapter(root, wrapper, name, saved.config, empty=True)
    except UserError:
        raise
    except (*PARSE_ERRORS, re.error) as error:
        raise AdapterError(
            f"{folder}: its adapter_config.json does not fit this model ({error}); use the "
            "backbone that the adapter was trained on, or train it again"
        ) from error
    try:
        _check(wrapper, name, saved, tensors)
    except AdapterError:
        wrapper.delete_adapter(name)
        raise
    set_peft_model_state_dict(wrapper, tensors, name, low_cpu_mem_usage=True)
    return wrapper


def _weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a folder in float32; raise AdapterError if one is not finite."""
    file, pickled = folder / _WEIGHTS, folder / "adapter_model.bin"
    if pickled.exists() and not file.exists():
        raise AdapterError(
            f"{pickled}: is a pickle, which can run any program when it is read, so V-LynX reads "
            "safetensors only; if you trust it, load it with PEFT and save it again with "
            "save_pretrained"
        )
    try:
        tensors = load_file(file)
    except (*PARSE_ERRORS, SafetensorError) as error:
        raise AdapterError(
            f"{file}: cannot be read as a PEFT adapter ({error}); copy the folder again or train "
            "the adapter again"
        ) from error
    for key, tensor in tensors.items():
        if not holds_finite_numbers(tensor):
            raise AdapterError(
                f"{file}: {key} contains values that are not finite floats of 16 bits or more; "
                "train the adapter again"
            )
    return {key: tensor.float() for key, tensor in tensors.items()}


def _refuse_other_model(root: nn.Module, file: Path, keys: Iterable[str]) -> None:
    """Raise AdapterError if saved tensors belong to layers that ``root`` does not have."""
    names = {name for name, _ in root.named_modules() if name}
    modules = {key.removeprefix(_PREFIX).split(".lora_")[0] for key in keys if ".lora_" in key}
    # Unknown layer → the layer of this model that its name ends with, if there is one.
    inner = {
        unknown: max((n for n in names if unknown.endswith(f".{n}")), key=len, default="")
        for unknown in sorted(modules - names)
    }
    if not inner:
        return
    unknown = max(inner, key=lambda each: len(inner[each]))
    why = f"{file}: made for another model, which has {len(inner)} other layers, such as {unknown}"
    if not inner[unknown]:
        raise AdapterError(f"{why}; use the backbone it was trained on")
    raise AdapterError(
        f"{why} instead of {inner[unknown]}; if it was saved around a larger model or by another "
        f"version of transformers, save it around the {type(root).__name__} alone, or remove "
        f"{unknown.removesuffix(inner[unknown])!r} from the names in its two files"
    )


def _check(
    wrapper: PeftModel, name: str, saved: SavedAdapter, tensors: Mapping[str, Tensor]
) -> None:
    """Raise AdapterError if the weights are not those that the settings ask for."""
    file = saved.folder / _WEIGHTS
    for key, layer in adapted_layers(wrapper, name).items():
        if not isinstance(kind := layer.get_base_layer(), (nn.Linear, nn.Conv2d)):
            raise AdapterError(
                f"{saved.folder}: target_modules in its adapter_config.json asks for "
                f"{key.removeprefix(_PREFIX)}, which is of type {type(kind).__name__}; only Linear "
                "and Conv2d layers are supported, train the adapter without it"
            )
    wanted = adapter_tensors(wrapper, name)
    for key in sorted(wanted.keys() | tensors.keys()):
        has, asks = (given[key].shape if key in given else None for given in (tensors, wanted))
        if has != asks:
            found = "is missing" if has is None else f"has shape {tuple(has)}"
            asked = "no such tensor" if asks is None else f"one of shape {tuple(asks)}"
            raise AdapterError(
                f"{file}: {key} {found}, but its adapter_config.json asks for {asked}, with "
                f"{_differing(saved.config)} on this backbone; both files must belong to one "
                "adapter, and the backbone must be the one it was trained on"
            )


def _differing(config: LoraConfig) -> str:
    """Format the settings that define an adapter and differ from PEFT's defaults."""
    read = {name: getattr(config, name) for name in sorted(_READ)}
    return ", ".join(
        f"{name}={value!r:.60}" for name, value in read.items() if value != _DEFAULTS[name]
    )


def holds_finite_numbers(tensor: Tensor) -> bool:
    """Whether a tensor has floats of at least 16 bits that are finite in float32."""
    kind = tensor.dtype  # torch has no isfinite for smaller ones
    return kind.is_floating_point and kind.itemsize >= 2 and bool(tensor.float().isfinite().all())
