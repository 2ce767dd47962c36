"""LoRA adapters in two PEFT models: one around the vision tower, one around the LLM.

Switching an adapter touches no ``requires_grad``. PEFT's own ``set_adapter`` and
``disable_adapter`` do, which silently drops gradients when they are called between two forwards
of one training step; so a step selects adapters through :func:`use_adapter` alone.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from vlynx_pl.errors import FOREIGN, UserError
from vlynx_pl.files import atomic_folder


class AdapterError(UserError):
    """An adapter folder that cannot be read, or one that was made for another model."""


def add_adapter(
    root: nn.Module,
    wrapper: PeftModel | None,
    name: str,
    *,
    base: str,
    rank: int,
    alpha: int,
    dropout: float,
) -> PeftModel:
    """Inject a LoRA adapter into every ``nn.Linear`` under ``root``, in place.

    Args:
        root: the vision tower or the LLM.
        wrapper: the PEFT model already around ``root``, or None for its first adapter.
        name: adapter name, a modality or a task.
        base: name of the base model, noted in the saved configuration.
        rank: LoRA r (paper: 64).
        alpha: LoRA scale numerator (128 for vision, 16 for the LLM; method.md section 4).
        dropout: LoRA dropout (0.05).

    Raises:
        ValueError: an adapter of that name exists, or the name is not a plain word.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"adapter name {name!r}: use letters, digits, '_' and '-' only")
    if wrapper is not None and name in wrapper.peft_config:
        raise ValueError(f"adapter {name!r} exists already; adapters: {list(wrapper.peft_config)}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        # A list of full names: a bare suffix such as q_proj would also be right for other towers.
        target_modules=_linear_names(root),
        base_model_name_or_path=base,
    )
    with warnings.catch_warnings():
        # PEFT asks transformers 5 for a property under its old name.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        if wrapper is None:
            wrapper = PeftModel(root, config, adapter_name=name)
        else:
            wrapper.add_adapter(name, config)
    for parameter in adapter_parameters(wrapper, name).values():
        parameter.requires_grad_(True)
    return wrapper


def _linear_names(root: nn.Module) -> list[str]:
    names = []
    for name, module in root.named_modules():
        if ".lora_" in name or name.endswith(".base_layer"):
            continue
        inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(inner, nn.Linear):
            names.append(name)
    return names


@contextmanager
def use_adapter(root: nn.Module, name: str | None) -> Iterator[None]:
    """Run ``root`` with one adapter, or with none: then it is the untouched base, bit for bit.

    Raises:
        KeyError: no adapter of that name was added to ``root``.
    """
    layers: list[Any] = [m for m in root.modules() if isinstance(m, BaseTunerLayer)]
    if name is not None and not any(name in layer.lora_A for layer in layers):
        raise KeyError(f"no adapter {name!r} here; add it with add_vision_adapter first")
    # Private names of PEFT, because its public switches also flip requires_grad; a test pins them.
    saved = [(layer._disable_adapters, layer._active_adapter) for layer in layers]
    for layer in layers:
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]
    try:
        yield
    finally:
        for layer, (disabled, active) in zip(layers, saved, strict=True):
            layer._disable_adapters, layer._active_adapter = disabled, active


def adapter_in_use(root: nn.Module) -> str | None:
    """Name of the adapter that ``root`` runs with now; None is the untouched base."""
    layers: Iterator[Any] = (m for m in root.modules() if isinstance(m, BaseTunerLayer))
    layer = next(layers, None)
    if layer is None or layer.disable_adapters:
        return None
    name: str = layer.active_adapters[0]
    return name


def adapter_parameters(wrapper: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """The adapter's own parameters by name."""
    own = re.compile(rf"\.lora_[AB]\.{name}\.")
    return {key: p for key, p in wrapper.named_parameters() if own.search(key)}


def adapter_hash(wrapper: PeftModel, name: str) -> str:
    """Hash of all that an adapter adds to the model."""
    config: Any = wrapper.peft_config[name]
    scale = torch.tensor(config.lora_alpha / config.r)
    return tensors_hash({**adapter_parameters(wrapper, name), "scale": scale})


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes and, in float32, of values; tensors on the meta device have none."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        if tensor.device.type != "meta":
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_adapter(
    wrapper: PeftModel, name: str, folder: Path, made_with: Mapping[str, Any] | None = None
) -> None:
    """Write the adapter as a plain PEFT folder, at once or not at all.

    The folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` and loads with
    ``PeftModel.from_pretrained(vision_tower, folder)``, without this package. ``made_with``, plain
    numbers and names, is kept in it as ``made_with.json``, since weights alone do not say what
    frames they expect.
    """
    with atomic_folder(folder) as unfinished:
        wrapper.save_pretrained(
            str(unfinished), selected_adapters=[name], save_embedding_layers=False
        )
        nested = unfinished / name  # PEFT nests every adapter not called "default"
        for file in nested.iterdir():
            file.rename(unfinished / file.name)
        nested.rmdir()
        if made_with is not None:
            (unfinished / "made_with.json").write_text(json.dumps(made_with, indent=1))


def load_adapter(wrapper: PeftModel, name: str, folder: Path) -> None:
    """Load saved weights into the existing adapter ``name``; every tensor must be found.

    Raises:
        AdapterError: the files are missing or damaged, they belong to another model or rank, or a
            value is not finite.
    """
    file = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(file)
    except (*FOREIGN, SafetensorError) as error:
        raise AdapterError(
            f"{file}: cannot be read as a PEFT adapter ({error}); copy the folder again or train "
            "the adapter anew"
        ) from error
    expected = {
        key.replace(f".{name}.", "."): parameter
        for key, parameter in adapter_parameters(wrapper, name).items()
    }
    if missing := sorted(expected.keys() ^ tensors.keys()):
        raise AdapterError(
            f"{file}: made for another model, {len(missing)} tensors do not match, "
            f"for example {missing[0]}; use the backbone it was trained on"
        )
    for key, parameter in expected.items():
        if parameter.shape != tensors[key].shape:
            raise AdapterError(
                f"{file}: {key} has shape {tuple(tensors[key].shape)}, the adapter here "
                f"{tuple(parameter.shape)}; build it with the rank in adapter_config.json"
            )
        if not holds_finite_numbers(tensors[key]):
            raise AdapterError(
                f"{file}: {key} holds other than finite numbers of float16 or more; train the "
                "adapter anew"
            )
        parameter.data.copy_(tensors[key])


def holds_finite_numbers(tensor: Tensor) -> bool:
    """Whether a tensor holds floats of 16 bits or more that are finite in float32."""
    kind = tensor.dtype  # of the small ones torch cannot even tell
    return kind.is_floating_point and kind.itemsize >= 2 and bool(tensor.float().isfinite().all())


@dataclass(frozen=True)
class SavedAdapter:
    """What a folder says of its adapter."""

    rank: int
    alpha: int
    dropout: float
    made_with: Mapping[str, Any]  # backbone, fingerprint, frames; empty where plain PEFT saved it


def saved_config(folder: Path) -> SavedAdapter:
    """Read the settings of a saved adapter.

    Raises:
        AdapterError: the folder is no PEFT adapter.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        note = folder / "made_with.json"
        made_with = dict(json.loads(note.read_text()) if note.is_file() else {})
        for name, kind in (("fingerprint", str), ("drawing", dict)):
            if not isinstance(made_with.get(name, kind()), kind):
                raise ValueError(f"{name} in {note.name} is {made_with[name]!r:.60}")
        rank = int(config["r"])
        # A few bytes of settings must not make the model as large as they like.
        if rank not in (ranks := _ranks(folder / "adapter_model.safetensors")) or rank < 1:
            raise ValueError(f"its settings say rank {rank}, its weights {sorted(ranks)}")
        alpha, dropout = int(config["lora_alpha"]), float(config["lora_dropout"])
        if not (0 < alpha <= torch.finfo(torch.float32).max and 0 <= dropout < 1):
            raise ValueError("its lora_alpha must be above 0, its lora_dropout from 0 to below 1")
        return SavedAdapter(rank, alpha, dropout, made_with)
    except (*FOREIGN, SafetensorError) as error:
        raise AdapterError(
            f"{folder} is no PEFT adapter ({error}); align or tune it first, or give the folder "
            "that holds adapter_config.json, such as runs/…/adapters/vision-3d"
        ) from error


def _ranks(weights: Path) -> set[int]:
    """Ranks of the matrices in a file, of which the header alone is read."""
    with safe_open(weights, "pt") as file:
        names = [name for name in file.keys() if ".lora_A." in name]  # noqa: SIM118
        return {file.get_slice(name).get_shape()[0] for name in names}
