"""A frozen model with LoRA adapters: of modalities in its vision encoder, of tasks in its LLM."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from vlynx_pl.adapters import (
    AdapterError,
    Lora,
    adapter_in_use,
    add_adapter,
    tensors_hash,
    train_adapters,
    use_adapter,
)
from vlynx_pl.backbones.quantization import Quantization, move_scales
from vlynx_pl.saved_adapters import SavedAdapter, load_adapter, saved_config

_CHECKPOINTED: Final = "gradient_checkpointing"  # transformers' flag on a module


class AdaptedModel(nn.Module, ABC):
    """A model of which everything except the adapters is frozen and in eval mode.

    Args:
        name: path or hub name the model was loaded from.
        model: the transformers model.
    """

    def __init__(self, name: str, model: PreTrainedModel) -> None:
        super().__init__()
        self.name = name
        self.model = model.requires_grad_(False)
        # In a plain dict, so not submodules: the layers belong to the model above.
        self._peft: dict[str, PeftModel] = {}
        self._checkpointed: list[nn.Module] = []
        self.quantization: Quantization | None = None
        """How the LLM's linear layers are quantized."""

    @property
    @abstractmethod
    def vision_tower(self) -> nn.Module:
        """The module that vision adapters are injected into."""

    @property
    @abstractmethod
    def language_model(self) -> nn.Module:
        """The LLM without its output head; called with ``inputs_embeds``."""

    @abstractmethod
    def _visual_tensors(self) -> dict[str, Tensor]:
        """The frozen tensors between pixels and tokens, by name."""

    def add_vision_adapter(self, name: str, lora: Lora) -> None:
        """Inject a trainable adapter, one per modality, into the vision tower."""
        self._add_adapter("vision", self.vision_tower, name, lora)

    def add_llm_adapter(self, name: str, lora: Lora) -> None:
        """Inject a trainable adapter, one per task, into the LLM."""
        self._add_adapter("llm", self.language_model, name, lora)

    def saved_adapter(self, folder: Path) -> SavedAdapter:
        """Read the settings of a saved adapter.

        Raises:
            AdapterError: the folder is not an adapter, or belongs to another backbone.
        """
        saved = saved_config(folder)
        made_for = saved.made_with.get("fingerprint")
        if made_for not in {None, self.fingerprint}:
            raise AdapterError(
                f"{folder} was trained on {saved.made_with.get('backbone')} (fingerprint "
                f"{made_for}), this backbone is {self.name} ({self.fingerprint}); train it on this "
                "backbone"
            )
        return saved

    def load_vision_adapter(self, name: str, saved: SavedAdapter) -> None:
        """Inject a saved adapter into the vision tower; raise AdapterError if it does not fit."""
        self._add_adapter("vision", self.vision_tower, name, saved)

    def load_llm_adapter(self, name: str, saved: SavedAdapter) -> None:
        """Inject a saved adapter into the LLM; raise AdapterError if it does not fit."""
        self._add_adapter("llm", self.language_model, name, saved)

    def _add_adapter(self, part: str, root: nn.Module, name: str, new: Lora | SavedAdapter) -> None:
        _ = self.fingerprint  # computed and cached before anything is injected
        wrapper = self._peft.get(part)
        if isinstance(new, SavedAdapter):
            self._peft[part] = load_adapter(root, wrapper, name, new)
        else:
            self._peft[part] = add_adapter(root, wrapper, name, new.config(root))
        self._peft[part].peft_config[name].base_model_name_or_path = self.name
        self.train(False)  # PEFT's new layers start with dropout on

    def checkpoint_llm(self) -> None:
        """Recompute the LLM's activations in the backward pass instead of storing them.

        This applies in training mode only, and does not change gradients.
        """
        model: Any = self.language_model
        # Later versions of transformers use this name, and deprecate the other.
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)(
            {"use_reentrant": False, "context_fn": self._forward_and_again}
        )
        self._checkpointed = [m for m in model.modules() if getattr(m, _CHECKPOINTED, False)]

    def _forward_and_again(self) -> tuple[AbstractContextManager[None], ...]:
        """Select the adapter of the forward pass again in the backward pass."""
        again = use_adapter(self.language_model, adapter_in_use(self.language_model))
        return nullcontext(), again

    @property
    def vision_adapters(self) -> PeftModel:
        """The PEFT model around the vision tower.

        Raises:
            KeyError: no vision adapter was added yet.
        """
        return self._peft["vision"]

    @property
    def llm_adapters(self) -> PeftModel:
        """The PEFT model around the LLM.

        Raises:
            KeyError: no LLM adapter was added yet.
        """
        return self._peft["llm"]

    @property
    def adapted_modules(self) -> dict[str, str]:
        """``vision`` and ``llm`` → path of the module in the model that its adapters are in."""
        names = {module: name for name, module in self.model.named_modules()}
        return {"vision": names[self.vision_tower], "llm": names[self.language_model]}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights between pixels and tokens, in float32, without adapters."""
        return tensors_hash(self._visual_tensors())

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.quantization == "int8":
            move_scales(self.language_model)
        return self

    @override
    def train(self, mode: bool = True) -> Self:
        """Switch the dropout of adapters; the frozen model stays in eval mode."""
        super().train(False)
        for layer in self._checkpointed:
            layer.training = mode  # for transformers; the parts of the layer stay in eval mode
        for wrapper in self._peft.values():
            train_adapters(wrapper, mode)
        return self
