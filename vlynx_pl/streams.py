"""V-LynX's way of reading streams: each modality is encoded with its aligned vision adapter.

PAVE's way is in :mod:`vlynx_pl.baselines.pave_streams`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from peft import PeftModel
from torch import Tensor, nn
from typing_extensions import override

from vlynx_pl.adapters import VISION_LORA, Lora, adapter_hash, adapter_parameters, train_adapters
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import PRECISION
from vlynx_pl.saved_adapters import SavedAdapter
from vlynx_pl.stream_reduction import USUAL, Reducer, TokenReduction, places_of
from vlynx_pl.stream_tokens import StreamTokens
from vlynx_pl.usual_tokens import load_usual, save_usual

_BASE: Final = "base"  # instead of an adapter's folder


class AlignedStreams(StreamTokens):
    """The video encoded by the untouched base, then each modality with its vision adapter.

    Tokens are averaged over the frames of a timestamp (``turbo+normals`` has two).

    Args:
        modalities: stream → folder of its aligned vision adapter, or ``base`` for the untouched
            base. Streams follow the video in this order; others are not read, so an empty mapping
            is the LoRA-only baseline.
        train_vision: also train the vision adapters; those of ``base`` are new, which is the
            paper's "no interface adaptation" (Table 5). Adapters that were trained with an LLM
            adapter are loaded from beside it.
        lora: settings of new vision adapters.
        learning_rate: peak for the vision adapters; null is that of the LLM's, which may be far too
            high for a vision encoder.
        keep: stream → what the LLM reads of it, see :mod:`vlynx_pl.token_reduction`: a share of its
            tokens, such as 0.25, or a number of tokens per frame, such as 1. Other streams stay
            whole. A single number is for all streams together, with ``reduce: spread``.
        reduce: stream → ``pool``, ``salient`` or ``random``; without an entry, ``pool`` for the
            video and ``salient`` for a modality. Or ``spread``.
        elastic: shares, such as ``[1.0, 0.5, 0.25]``, of which training draws one for each clip and
            epoch. Answers are then given at any ``keep``.
        positions: ``original``, so that a token that is kept stays where it was, or ``compact``,
            which is for comparison.

    Raises:
        UserError: settings do not fit together, or a learning rate is given, but nothing is
            trained.
    """

    def __init__(
        self,
        modalities: Mapping[str, str] | None = None,
        train_vision: bool = False,
        lora: Lora = VISION_LORA,
        learning_rate: float | None = None,
        keep: int | float | Mapping[str, int | float] | None = None,
        reduce: Literal["spread"] | Mapping[str, Reducer] | None = None,
        elastic: Sequence[float] = (),
        positions: Literal["original", "compact"] = "original",
    ) -> None:
        if learning_rate is not None and not (train_vision and modalities):
            raise UserError(
                f"model.streams.learning_rate={learning_rate} trains nothing without "
                "train_vision=true and modalities; give them, or leave it null"
            )
        self.modalities = dict(modalities or {})
        names = ("video", *self.modalities)
        settings: dict[str, Any] = {"modalities": self.modalities}
        if reduction := TokenReduction.of(names, keep, reduce, elastic, positions == "compact"):
            settings |= {"keep": keep, "reduce": reduce, "positions": positions}
            if train_vision:
                raise UserError(
                    f"model.streams.keep={keep} and train_vision=true exclude each other, as a "
                    "choice of tokens has no gradient; leave one of them out"
                )
        super().__init__(names, settings, learning_rate)
        self.train_vision, self.lora, self.reduction = train_vision, lora, reduction
        self._adapters: dict[str, str | None] = {}  # stream → its vision adapter

    @override
    def attach(self, backbone: VideoBackbone, llm_adapter: SavedAdapter | None) -> None:
        super().attach(backbone, llm_adapter)
        for name in self.modalities:
            if self.train_vision and llm_adapter is not None:  # they may have been trained together
                along = llm_adapter.folder.parent / f"vision-{name}"
                if along.is_dir():
                    self.modalities[name] = str(along)
            aligned = self.modalities[name] != _BASE
            self._adapters[name] = name if aligned or self.train_vision else None
            if aligned:
                self._load(name, Path(self.modalities[name]))
            elif self.train_vision:
                backbone.add_vision_adapter(name, self.lora)
        self.reduction.check(backbone.tokens_per_frame)
        if llm_adapter is not None and self.reduction.unfitted():
            file = llm_adapter.folder.parent / USUAL
            if file.is_file():
                self.load_usual(file)

    def load_usual(self, file: Path) -> None:
        """Load the usual tokens that the reduction needs; raise AdapterError if they do not fit."""
        shape = self.backbone.tokens_per_frame, self.backbone.token_size
        self.reduction.usual.update(load_usual(file, self._usual_made_with(), shape))

    def save_usual(self, file: Path) -> None:
        """Write the usual tokens of the reduction."""
        save_usual(file, self.reduction.usual, self._usual_made_with())

    @property
    @override
    def reads_whole_video(self) -> bool:
        return all("video" not in group.names for group in self.reduction.groups)

    def _usual_made_with(self) -> dict[str, dict[str, str | None]]:
        fingerprint, hashes = self.backbone.fingerprint, self._adapter_hashes()
        return {
            name: {"backbone": fingerprint, "adapter": hashes[name]}
            for name in self.reduction.by_salience()
        }

    def _adapter_hashes(self) -> dict[str, str | None]:
        """The streams, each with the hash of the adapter that reads it."""
        adapters = {"video": None, **self._adapters}
        return {
            name: adapter and adapter_hash(self.backbone.vision_adapters, adapter)
            for name, adapter in adapters.items()
        }

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
            # Frozen adapters encode without dropout, as in evaluation.
            train_adapters(self.backbone.vision_adapters, False)
        return self

    @override
    def trained(self) -> nn.Module:
        return self.backbone.vision_tower

    @override
    def encode(self, episode: Mapping[str, Any]) -> dict[str, Tensor]:
        whole = self.encode_whole(episode)
        if self.reduction.elastic:  # the size is drawn anew in every epoch
            return whole
        return self.reduction.reduced(whole, episode.get("name", ""))

    def encode_whole(self, episode: Mapping[str, Any]) -> dict[str, Tensor]:
        """Encode all tokens (U, N, W) of the streams."""
        adapters = {"video": None, **self._adapters}
        return {name: self.encode_stream(name, episode, one) for name, one in adapters.items()}

    def encode_stream(self, name: str, episode: Mapping[str, Any], adapter: str | None) -> Tensor:
        """Encode all tokens (U, N, W) of one stream, with any vision adapter or the base."""
        with torch.set_grad_enabled(self.train_vision and torch.is_grad_enabled()):
            tokens = self.backbone.encode(episode["streams"][name][None], adapter)[0]
            if len(tokens) > (timestamps := len(episode["times"][name])):
                tokens = tokens.reshape(timestamps, -1, *tokens.shape[1:]).mean(1)
        return tokens

    @override
    def tokens(self, encoded: Mapping[str, Tensor], episode: Mapping[str, Any]) -> list[Stream]:
        times, name = episode["times"], episode.get("name", "")
        if self.reduction.elastic:
            encoded = self.reduction.reduced(encoded, name, self._drawn(episode))
        compact = self.reduction.compact
        return [
            Stream(encoded[each], times[each], encoded.get(places_of(each)), compact)
            for each in self.names
        ]

    def _drawn(self, episode: Mapping[str, Any]) -> float | None:
        """The size of a clip in this epoch of an elastic training, or None in evaluation."""
        if not (self.training and self.reduction.elastic):
            return None
        return self.reduction.drawn(*self.training_place, episode.get("name", ""))

    @override
    def outline(self, episode: Mapping[str, Any]) -> list[Stream]:
        largest = max(self.reduction.elastic, default=None) if self.training else None
        return self._outline(episode, largest)

    @override
    def visual_tokens(self, episode: Mapping[str, Any]) -> int:
        return sum(len(each.rows) for each in self._outline(episode, self._drawn(episode)))

    def _outline(self, episode: Mapping[str, Any], size: float | None) -> list[Stream]:
        times, per_frame = episode["times"], self.backbone.tokens_per_frame
        grids = {name: (len(times[name]), per_frame) for name in self.names}
        kept = self.reduction.outline(grids, size)
        return [
            Stream(torch.empty(int(kept[name].sum()), 0), times[name], kept[name])
            if name in kept
            else Stream(torch.empty(*grid, 0), times[name])
            for name, grid in grids.items()
        ]

    @override
    def kept_bytes(self, episode: Mapping[str, Any]) -> int:
        streams = self._outline(episode, 1.0 if self.reduction.elastic else None)
        places = sum(0 if stream.kept is None else stream.kept.nbytes for stream in streams)
        tokens = sum(len(stream.rows) for stream in streams)
        return tokens * self.backbone.token_size * PRECISION.itemsize + places

    @override
    def token_cache_keys(self) -> dict[str, str]:
        if self.train_vision:
            raise UserError(
                "train_vision changes the tokens at every step, so they cannot be kept; remove "
                "callbacks.KeepTokens from trainer.callbacks"
            )
        elastic = self.reduction.elastic
        reads = self._reads_whole(self._adapter_hashes()) if elastic else self.reads()
        how = {"video": {}, **reads}
        return {name: self._cache_key(each) for name, each in how.items()}

    @override
    def reads(self) -> dict[str, dict[str, Any]]:
        hashes = self._adapter_hashes()
        how = self._reads_whole(hashes)
        for name, reduction in self.reduction.settings(hashes).items():
            how[name] = {**how.get(name, {}), **reduction}
        return how

    def _reads_whole(self, hashes: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
        # Adapters and token stores that older versions wrote say "pooled".
        return {name: {"adapter": hashes[name], "pooled": False} for name in self.modalities}

    @override
    def resume_invariants(self) -> dict[str, Any]:
        # Trained vision adapters change at every step.
        return {} if self.train_vision else super().resume_invariants()

    @override
    def save(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        if self.reduction.usual:
            self.save_usual(folder / USUAL)

    @override
    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        trained = self.modalities if self.train_vision else ()
        return {f"vision-{name}": (self.backbone.vision_adapters, name) for name in trained}
