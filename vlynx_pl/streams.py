"""How an episode's streams become the tokens that the LLM is given, chosen by ``model.streams``.

V-LynX reads each modality with its aligned vision adapter; PAVE has a class of its own
(:mod:`vlynx_pl.baselines.pave_streams`).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import torch
from peft import PeftModel
from torch import Tensor, nn
from typing_extensions import override

from vlynx_pl.adapters import (
    VISION_LORA,
    AdapterError,
    Lora,
    adapter_hash,
    adapter_parameters,
    train_adapters,
)
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import PRECISION
from vlynx_pl.saved_adapters import SavedAdapter

_BASE: Final = "base"  # in the place of an adapter


class StreamTokens(nn.Module, ABC):
    """Encodes an episode's streams, and makes the LLM's tokens of what is encoded.

    Args:
        names: the streams that are encoded, ``video`` first.
        settings: what answers are noted with: plain numbers and names.
        learning_rate: peak of what is trained here; None is that of the LLM's adapter.
    """

    def __init__(
        self, names: Sequence[str], settings: Mapping[str, Any], learning_rate: float | None
    ) -> None:
        super().__init__()
        self.names, self.settings, self.learning_rate = tuple(names), settings, learning_rate
        self.made_with: dict[str, Mapping[str, Any]] = {}
        """Modality → what its saved adapter was made with, where one was loaded."""
        self._attached: tuple[VideoBackbone, ...] = ()  # not a submodule, it is its owner's

    @property
    def backbone(self) -> VideoBackbone:
        """What encodes frames, once it is attached."""
        [backbone] = self._attached
        return backbone

    def attach(self, backbone: VideoBackbone, llm_adapter: SavedAdapter | None) -> None:
        """Encode with this backbone; what else this needs is made, or lies beside ``llm_adapter``.

        Raises:
            AdapterError: it is damaged, or another model's.
        """
        self._attached = (backbone,)

    @abstractmethod
    def trained(self) -> nn.Module:
        """The module that holds all that is trained here, if anything is."""

    @abstractmethod
    def encode(self, episode: Mapping[str, Any]) -> list[Tensor]:
        """Encode what may be kept on disk, (U, N, C) for each of ``names``.

        Args:
            episode: ``streams`` has all of ``names``, name → uint8 (T, 3, H, W), and ``times`` the
                U timestamps of each, with T / U frames for each.
        """

    @abstractmethod
    def tokens(self, encoded: list[Tensor], episode: Mapping[str, Any]) -> list[Tensor]:
        """The LLM's tokens (U, N, D) of what :meth:`encode` gave, or a store kept."""

    @abstractmethod
    def kept_bytes(self, episode: Mapping[str, Any]) -> int:
        """What a token store takes for what :meth:`encode` gives of an episode."""

    @abstractmethod
    def token_cache_keys(self) -> dict[str, str]:
        """Stream → all that what is encoded depends on beside the frames.

        Raises:
            UserError: it changes while it is trained.
        """

    @abstractmethod
    def reads(self) -> dict[str, dict[str, Any]]:
        """Modality → how it becomes tokens: plain numbers and names."""

    def adapter_metadata(self) -> dict[str, Any]:
        """What is noted beside the LLM's adapter: plain numbers and names."""
        return {"reads": self.reads()}

    def resume_invariants(self) -> dict[str, Any]:
        """What a run that was stopped must find unchanged: plain numbers and names."""
        return {"reads": self.reads()}

    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        """Folder name → PEFT model and adapter name of every vision adapter that is trained."""
        return {}

    def save(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        """Write into a folder what is trained here and is not an adapter."""

    def check(self, episode: Mapping[str, Any]) -> None:
        """Raise UserError where a stream is missing, or its timestamps have unlike many frames."""
        streams, times = episode["streams"], episode["times"]
        for name in self.names:
            if name not in streams:
                raise UserError(
                    f"the data has no stream {name!r}, only {', '.join(streams)}; name the "
                    "modalities of model.streams.modalities, or PAVE's model.streams.side, as the "
                    "data module does"
                )
            frames, timestamps = len(streams[name]), len(times[name])
            if not timestamps or frames % timestamps:
                raise UserError(
                    f"stream {name!r} has {frames} frames for {timestamps} timestamps; correct the "
                    "data module, which must give each timestamp as many"
                )

    def refuse_others(self, llm_adapter: SavedAdapter) -> None:
        """Raise AdapterError where an LLM adapter was tuned on other streams than these."""
        tuned_on = llm_adapter.made_with.get("reads")
        if tuned_on is not None and tuned_on != self.reads():
            raise AdapterError(
                f"{llm_adapter.folder} was tuned on {tuned_on}, this run reads {self.reads()}; "
                "give the model.streams of its tuning: the same modalities and pooled, or, where "
                "it has a patch, PAVE with its side and sizes"
            )

    def _cache_key(self, how: Mapping[str, Any]) -> str:
        encoder = {
            "backbone": self.backbone.fingerprint,
            "dtype": str(self.backbone.newline.dtype),
            "normalisation": self.backbone.normalisation,
        }
        return json.dumps({**encoder, **how})


class AlignedStreams(StreamTokens):
    """The video as the untouched base sees it, then each modality with its vision adapter.

    Tokens are averaged over the frames of a timestamp (``turbo+normals`` has two).

    Args:
        modalities: stream → folder of its aligned vision adapter, or ``base``: the stream is read
            by the untouched base. Streams go to the LLM in this order, after the video; one that
            is not named is left out, so none at all is the LoRA-only baseline.
        train_vision: train the vision adapters along; those of ``base`` from nothing, which is the
            paper's "no interface adaptation" (Table 5). Those that were trained along with an LLM
            adapter lie beside it, and are loaded with it.
        lora: vision adapters that begin from nothing.
        learning_rate: peak of the vision adapters'; null is that of the LLM's. What suits the LLM
            may be far too much for a vision encoder.
        pooled: modalities whose tokens are averaged over each frame.

    Raises:
        UserError: a learning rate without anything to train.
    """

    def __init__(
        self,
        modalities: Mapping[str, str] | None = None,
        train_vision: bool = False,
        lora: Lora = VISION_LORA,
        learning_rate: float | None = None,
        pooled: Sequence[str] = (),
    ) -> None:
        if learning_rate is not None and not (train_vision and modalities):
            raise UserError(
                f"model.streams.learning_rate={learning_rate} trains nothing without "
                "train_vision=true and modalities; give them, or leave it null"
            )
        self.modalities = dict(modalities or {})
        names, settings = ("video", *self.modalities), {"modalities": self.modalities}
        super().__init__(names, settings, learning_rate)
        self.train_vision, self.lora, self.pooled = train_vision, lora, frozenset(pooled)
        self._adapters: dict[str, str | None] = {}  # stream → vision adapter that reads it

    @override
    def attach(self, backbone: VideoBackbone, llm_adapter: SavedAdapter | None) -> None:
        super().attach(backbone, llm_adapter)
        for name in self.modalities:
            if self.train_vision and llm_adapter is not None:  # it may have been trained along
                along = llm_adapter.folder.parent / f"vision-{name}"
                if along.is_dir():
                    self.modalities[name] = str(along)
            aligned = self.modalities[name] != _BASE
            self._adapters[name] = name if aligned or self.train_vision else None
            if aligned:
                self._load(name, Path(self.modalities[name]))
            elif self.train_vision:
                backbone.add_vision_adapter(name, self.lora)

    def _load(self, name: str, folder: Path) -> None:
        saved = self.backbone.saved_adapter(folder)
        self.made_with[name] = saved.made_with
        self.backbone.load_vision_adapter(name, saved)
        for parameter in adapter_parameters(self.backbone.vision_adapters, name).values():
            parameter.requires_grad_(self.train_vision)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.train_vision and any(self._adapters.values()):
            # A frozen adapter reads without dropout, as it will when questions are answered.
            train_adapters(self.backbone.vision_adapters, False)
        return self

    @override
    def trained(self) -> nn.Module:
        return self.backbone.vision_tower

    @override
    def encode(self, episode: Mapping[str, Any]) -> list[Tensor]:
        encoded = []
        for name, adapter in {"video": None, **self._adapters}.items():
            with torch.set_grad_enabled(self.train_vision and torch.is_grad_enabled()):
                tokens = self.backbone.encode(episode["streams"][name][None], adapter)[0]
                if len(tokens) > (timestamps := len(episode["times"][name])):
                    tokens = tokens.reshape(timestamps, -1, *tokens.shape[1:]).mean(1)
                if name in self.pooled:
                    tokens = tokens.mean(1, keepdim=True)
            encoded.append(tokens)
        return encoded

    @override
    def tokens(self, encoded: list[Tensor], episode: Mapping[str, Any]) -> list[Tensor]:
        return encoded

    @override
    def kept_bytes(self, episode: Mapping[str, Any]) -> int:
        tokens = 0
        for name in self.names:
            each = 1 if name in self.pooled else self.backbone.tokens_per_frame
            tokens += len(episode["times"][name]) * each
        return tokens * self.backbone.hidden_size * PRECISION.itemsize

    @override
    def token_cache_keys(self) -> dict[str, str]:
        if self.train_vision:
            raise UserError(
                "train_vision changes the tokens at every step, so that none can be kept; take "
                "callbacks.KeepTokens out of trainer.callbacks"
            )
        reads = {"video": {}, **self.reads()}
        return {name: self._cache_key(how) for name, how in reads.items()}

    @override
    def reads(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "adapter": adapter and adapter_hash(self.backbone.vision_adapters, adapter),
                "pooled": name in self.pooled,
            }
            for name, adapter in self._adapters.items()
        }

    @override
    def resume_invariants(self) -> dict[str, Any]:
        # Vision adapters that are trained along change with every step.
        return {} if self.train_vision else super().resume_invariants()

    @override
    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        trained = self.modalities if self.train_vision else ()
        return {f"vision-{name}": (self.backbone.vision_adapters, name) for name in trained}
