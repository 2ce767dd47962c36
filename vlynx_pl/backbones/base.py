"""The interface between Video LLMs and the method.

A family is a subclass that names its vision tower, LLM and attention layers, and turns frames into
tokens. Everything except the LoRA adapters is frozen and in eval mode.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import torch
from peft import PeftModel
from torch import Tensor, nn
from torchvision.transforms.v2.functional import InterpolationMode, resize
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
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
from vlynx_pl.branch_attention import BRANCH_ATTENTION
from vlynx_pl.frame_chunks import in_chunks, joined
from vlynx_pl.saved_adapters import SavedAdapter, load_adapter, saved_config

_PATCHES: Final = 32 * 729  # without gradients at once; enough to keep any GPU busy
_CHECKPOINTED: Final = "gradient_checkpointing"  # transformers' flag on a module


class VideoBackbone(nn.Module, ABC):
    """A frozen Video LLM: frames in, tokens out, with one adapter or none.

    Args:
        name: path or hub name the model was loaded from.
        model: the transformers model; it is frozen and put into eval mode.
        processor: its processor; None only for models without data, such as parameter counts.
    """

    never_quantized: ClassVar[tuple[str, ...]]
    """Names of the modules with linear layers, except for the LLM."""

    def __init__(self, name: str, model: PreTrainedModel, processor: ProcessorMixin | None) -> None:
        super().__init__()
        self.name = name
        self.model = model.requires_grad_(False)
        self.processor = processor
        language_model: Any = self.language_model
        language_model.set_attn_implementation(BRANCH_ATTENTION)
        # In a plain dict, so not submodules: the layers belong to the model above.
        self._peft: dict[str, PeftModel] = {}
        self._checkpointed: list[nn.Module] = []
        self.quantization: Quantization | None = None
        """How the LLM's linear layers are quantized."""
        self.frame_chunk: int | None = None
        """Maximum frames with gradients in the vision encoder at once; None is all of a call."""
        self.train(False)

    @property
    @abstractmethod
    def vision_tower(self) -> nn.Module:
        """The module that vision adapters are injected into."""

    @property
    @abstractmethod
    def language_model(self) -> nn.Module:
        """The LLM without its output head; called with ``inputs_embeds``."""

    @property
    @abstractmethod
    def frame_size(self) -> tuple[int, int]:
        """(H, W) in pixels that the vision tower expects."""

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """D, channels of a token at the LLM's input."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Q, channels of the vision encoder's features before its projector."""

    @property
    @abstractmethod
    def patch_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches in a frame; their product is S, the positions of attention."""

    @property
    @abstractmethod
    def tokens_per_frame(self) -> int:
        """N, the LLM's tokens per frame."""

    @property
    @abstractmethod
    def newline(self) -> Tensor:
        """(D,) the learned token that ends a stream of frames."""

    @abstractmethod
    def attention_layers(self) -> list[nn.Module]:
        """The vision self-attention modules, in order."""

    @abstractmethod
    def output_projection(self, layer: nn.Module) -> nn.Module:
        """The linear layer after the attention of ``layer``."""

    @abstractmethod
    def _tokens(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, T, 3, H, W) → tokens (B, T, N, D)."""

    @abstractmethod
    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (B, T, 3, H, W) → features (B, T, N, Q) and tokens (B, T, N, D)."""

    def encode(self, frames: Tensor, adapter: str | None = None) -> Tensor:
        """Encode frames with the vision tower and the projector.

        Args:
            frames: (B, T, 3, h, w) uint8 of any size, or floating point already normalised and of
                ``frame_size``.
            adapter: name of the vision adapter to switch on; None is the untouched base.

        Returns:
            (B, T, N, D) tokens, without the newline token.

        Raises:
            ValueError: the frames have another shape.
            KeyError: there is no adapter of that name.
        """

        def read(part: Tensor) -> tuple[Tensor]:
            pixels = self.normalise(part)
            with use_adapter(self.vision_tower, adapter):
                return (self._tokens(pixels),)

        chunks = in_chunks(read, frames, self.frames_at_once)
        return joined([tokens for (tokens,) in chunks], frames)

    def features(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode frames without adapters, and also return the features before the projector.

        Args:
            frames: as for :meth:`encode`.

        Returns:
            (B, T, N, Q) features, pooled like tokens, and (B, T, N, D) tokens as from
            :meth:`encode`.
        """

        def read(part: Tensor) -> tuple[Tensor, Tensor]:
            pixels = self.normalise(part)
            with use_adapter(self.vision_tower, None):
                return self._features(pixels)

        chunks = in_chunks(read, frames, self.frames_at_once)
        features, tokens = (joined(list(parts), frames) for parts in zip(*chunks, strict=True))
        return features, tokens

    @property
    def frames_at_once(self) -> int | None:
        """Maximum frames in the vision encoder at once; None is all of a call.

        Without gradients, chunks cost nothing and are always used.
        """
        if torch.is_grad_enabled():
            return self.frame_chunk
        most = max(1, _PATCHES // math.prod(self.patch_grid))
        return min(self.frame_chunk or most, most)

    def token_rows(self, tokens: Tensor, include_newline: bool) -> Tensor:
        """Flatten tokens (B, T, N, D) into the rows (R, D) of token statistics.

        ``include_newline`` adds the newline token once per video, as the released code does.
        """
        rows = tokens.flatten(0, 2)
        if include_newline:
            rows = torch.cat([rows, self.newline.expand(len(tokens), -1)])
        return rows

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer.

        Raises:
            ValueError: the backbone was built without a processor.
        """
        if self.processor is None:
            raise ValueError(f"{self.name} was built without a processor and cannot read text")
        return self.processor.tokenizer

    def embed(self, ids: Tensor) -> Tensor:
        """Embed token ids (n,) as the LLM's input (n, D)."""
        return self.model.get_input_embeddings()(ids)

    def splice(self, ids: Tensor, streams: Sequence[Tensor]) -> Tensor:
        """Concatenate text and visual streams as the LLM's input.

        Args:
            ids: (n,) token ids of the text before the streams.
            streams: tokens (T, N, D) each, in order; a newline token ends each.

        Returns:
            (P, D), where P is n plus T·N + 1 for each stream.

        Raises:
            ValueError: a stream has another shape.
        """
        parts = [self.embed(ids)]
        for tokens in streams:
            if tokens.ndim != 3 or tokens.shape[-1] != self.hidden_size:
                raise ValueError(
                    f"a stream must be (T, N, {self.hidden_size}), got {tuple(tokens.shape)}"
                )
            parts += [tokens.flatten(0, 1).to(self.newline.dtype), self.newline[None]]
        return torch.cat(parts)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map the LLM's last hidden states (..., D) to float32 logits (..., V)."""
        return self.model.get_output_embeddings()(hidden).float()

    def normalise(self, frames: Tensor) -> Tensor:
        """Resize and normalise frames as the model's own processor does (method.md section 0).

        Resizing to ``frame_size`` is bicubic with antialiasing, and ignores the aspect ratio.

        Args:
            frames: uint8 (B, T, 3, h, w), or floating point, already normalised, (B, T, 3, H, W).

        Returns:
            (B, T, 3, H, W) in the model's dtype.

        Raises:
            ValueError: the frames have another shape, or no processor was given.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames must be (B, T, 3, H, W), got {tuple(frames.shape)}")
        right_size = tuple(frames.shape[-2:]) == self.frame_size
        if frames.is_floating_point():
            if not right_size:
                raise ValueError(
                    f"floating point frames must be normalised and {self.frame_size} in size, got "
                    f"{tuple(frames.shape[-2:])}; pass uint8 frames to have them resized"
                )
            return frames.to(self.newline.dtype)
        if not right_size:
            size = list(self.frame_size)
            frames = resize(frames, size, InterpolationMode.BICUBIC, antialias=True)
        mean, std = (torch.tensor(x, device=frames.device) for x in self.normalisation)
        pixels = (frames.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        return pixels.to(self.newline.dtype)

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel, for pixels from 0 to 1.

        Raises:
            ValueError: the backbone was built without a processor.
        """
        if self.processor is None:
            raise ValueError(f"{self.name} was built without a processor and cannot take frames")
        video = self.processor.video_processor
        return list(video.image_mean), list(video.image_std)

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

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights between pixels and tokens, in float32, without adapters."""
        return tensors_hash(self._visual_tensors())

    @abstractmethod
    def _visual_tensors(self) -> dict[str, Tensor]:
        """The frozen tensors between pixels and tokens, by name."""

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
