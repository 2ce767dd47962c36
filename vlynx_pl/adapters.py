"""LoRA adapters in two PEFT models: one around the vision tower, one around the LLM.

Select adapters with :func:`use_adapter`, which leaves ``requires_grad`` unchanged. PEFT's own
``set_adapter`` and ``disable_adapter`` change it, which silently drops gradients when they are
called between two forwards of one training step.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_folder


class AdapterError(UserError):
    """An adapter folder that cannot be read, or that was made for another model."""


@dataclass(frozen=True)
class Lora:
    """Settings of a new LoRA adapter for every linear layer of the vision tower or the LLM.

    Args:
        rank: LoRA r.
        alpha: numerator of the scale, alpha/rank.
        dropout: LoRA dropout.
        use_rslora: scale by alpha/√rank instead (rsLoRA, arXiv 2312.03732).
        use_dora: learn magnitude and direction of weights separately (DoRA, arXiv 2402.09353).
    """

    rank: int
    alpha: int
    dropout: float = 0.05
    use_rslora: bool = False
    use_dora: bool = False

    def config(self, root: nn.Module) -> LoraConfig:
        """Return PEFT's configuration for the vision tower or the LLM, ``root``."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            # Full names: a bare suffix such as q_proj would match other towers, too.
            target_modules=linear_names(root),
        )


VISION_LORA: Final = Lora(rank=64, alpha=128)  # the paper's (method.md section 4)
LLM_LORA: Final = Lora(rank=64, alpha=16)


def add_adapter(
    root: nn.Module,
    wrapper: PeftModel | None,
    name: str,
    config: LoraConfig,
    *,
    empty: bool = False,
) -> PeftModel:
    """Inject a LoRA adapter into ``root``, in place.

    Args:
        root: the vision tower or the LLM.
        wrapper: the PEFT model already around ``root``, or None for its first adapter.
        name: adapter name, a modality or a task.
        config: PEFT's configuration, see :meth:`Lora.config`.
        empty: put the weights on the meta device, without memory, to be loaded later.

    Raises:
        UserError: an adapter of that name exists, or the name cannot be used.
    """
    # PEFT uses the name as a key of an nn.ModuleDict, in which some names are taken.
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict(), name):
        raise UserError(
            f"adapter name {name!r}: use letters, digits, '_' and '-' only, and not a name of "
            "torch's own such as 'type'"
        )
    if wrapper is not None and name in wrapper.peft_config:
        raise UserError(f"adapter {name!r} exists already; adapters: {list(wrapper.peft_config)}")
    # PEFT's low_cpu_mem_usage alone still allocates one matrix after the other.
    device = torch.device("meta") if empty else nullcontext()
    with device, warnings.catch_warnings():
        # PEFT uses a deprecated name of transformers 5.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        if wrapper is None:
            wrapper = PeftModel(root, config, adapter_name=name, low_cpu_mem_usage=empty)
        else:
            wrapper.add_adapter(name, config, low_cpu_mem_usage=empty)
    for parameter in adapter_parameters(wrapper, name).values():
        parameter.requires_grad_(True)
    return wrapper


def linear_names(root: nn.Module) -> list[str]:
    """List the names of all linear layers under ``root``."""
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
    """Run ``root`` with one adapter; with None it is the untouched base, bit for bit.

    Raises:
        KeyError: no adapter of that name was added to ``root``.
    """
    layers: list[Any] = [m for m in root.modules() if isinstance(m, BaseTunerLayer)]
    if name is not None and not any(name in layer.lora_A for layer in layers):
        raise KeyError(f"no adapter {name!r} here; add it with add_vision_adapter first")
    # Private attributes of PEFT, as its public switches also change requires_grad.
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
    """Return the name of the active adapter of ``root``; None is the untouched base."""
    layers: Iterator[Any] = (m for m in root.modules() if isinstance(m, BaseTunerLayer))
    layer = next(layers, None)
    if layer is None or layer.disable_adapters:
        return None
    name: str = layer.active_adapters[0]
    return name


def adapter_parameters(wrapper: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """Return an adapter's parameters by name."""
    own = re.compile(rf"\.lora_\w+\.{name}\.")
    return {key: p for key, p in wrapper.named_parameters() if own.search(key)}


def adapter_tensors(wrapper: PeftModel, name: str) -> dict[str, Tensor]:
    """Return an adapter's tensors under the names that PEFT saves them by."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(
        wrapper, adapter_name=name, save_embedding_layers=False
    )
    return tensors


def adapted_layers(wrapper: PeftModel, name: str) -> dict[str, LoraLayer]:
    """Return the layers that have an adapter, by their names in ``wrapper``."""
    layers = wrapper.named_modules()
    return {key: m for key, m in layers if isinstance(m, LoraLayer) and name in m.scaling}


def train_adapters(wrapper: PeftModel, mode: bool) -> None:
    """Switch dropout of all adapters on or off; the model itself stays in its mode."""
    for name, module in wrapper.named_modules():
        if ".lora_dropout" in name:
            module.train(mode)
        elif getattr(module, "lora_magnitude_vector", None):
            module.training = mode  # a DoRA layer skips its dropout otherwise


def adapter_hash(wrapper: PeftModel, name: str) -> str:
    """Hash an adapter's tensors and the scale of each layer."""
    layers = adapted_layers(wrapper, name).items()
    scales = {f"{key}.scale": torch.tensor(layer.scaling[name]) for key, layer in layers}
    return tensors_hash(adapter_tensors(wrapper, name) | scales)


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and float32 values; tensors on the meta device have no values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        if tensor.device.type != "meta":
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_adapter(
    wrapper: PeftModel, name: str, folder: Path, made_with: Mapping[str, Any] | None = None
) -> None:
    """Write an adapter as a plain PEFT folder, atomically.

    The folder contains ``adapter_config.json`` and ``adapter_model.safetensors``, and loads with
    ``PeftModel.from_pretrained(vision_tower, folder)``, without this package. ``made_with``, plain
    data on the frames that the weights expect, is written beside them as ``made_with.json``.
    """
    tensors = {key: t.cpu().contiguous() for key, t in adapter_tensors(wrapper, name).items()}
    with atomic_folder(folder) as unfinished:
        save_file(tensors, unfinished / "adapter_model.safetensors", {"format": "pt"})
        wrapper.peft_config[name].save_pretrained(str(unfinished))
        if made_with is not None:
            (unfinished / "made_with.json").write_text(json.dumps(made_with, indent=1))
