"""What a way of reading streams, chosen by ``model.streams``, must offer to tuning."""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn

from vlynx_pl.adapters import AdapterError
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.io.errors import UserError
from vlynx_pl.saved_adapters import SavedAdapter
from vlynx_pl.stream_reduction import places_of


class EncodedClip(NamedTuple):
    """A clip with what :meth:`StreamTokens.encode` made of its streams."""

    episode: Mapping[str, Any]  # has ``name``, ``times`` and ``questions``
    encoded: Mapping[str, Tensor]

    def on(self, device: torch.device) -> "EncodedClip":
        """Move it to a device."""
        encoded = {name: each.to(device) for name, each in self.encoded.items()}
        return EncodedClip(self.episode, encoded)


class StreamTokens(nn.Module, ABC):
    """Encodes an episode's streams, and makes the LLM's tokens of the result.

    Args:
        names: the streams that are encoded, ``video`` first.
        settings: plain data, saved with predictions.
        learning_rate: peak for what is trained here; None is that of the LLM's adapter.
    """

    def __init__(
        self, names: Sequence[str], settings: Mapping[str, Any], learning_rate: float | None
    ) -> None:
        super().__init__()
        self.names, self.settings, self.learning_rate = tuple(names), settings, learning_rate
        self.made_with: dict[str, Mapping[str, Any]] = {}
        """Modality → ``made_with.json`` of its adapter, if one was loaded."""
        self.training_place: tuple[object, ...] = ()
        """Seed and epoch of the current batch, for what is drawn for each clip."""
        self._attached: tuple[VideoBackbone, ...] = ()  # in a tuple, so not a submodule

    @property
    def backbone(self) -> VideoBackbone:
        """The attached backbone."""
        [backbone] = self._attached
        return backbone

    def attach(self, backbone: VideoBackbone, llm_adapter: SavedAdapter | None) -> None:
        """Encode with this backbone; other weights are new, or loaded from beside ``llm_adapter``.

        Raises:
            AdapterError: the weights are damaged, or belong to another model.
        """
        self._attached = (backbone,)

    @abstractmethod
    def trained(self) -> nn.Module:
        """The module that contains everything that is trained here."""

    @abstractmethod
    def encode(self, episode: Mapping[str, Any]) -> dict[str, Tensor]:
        """Encode the streams as far as a token store may keep the result.

        Args:
            episode: ``streams`` has all of ``names``, name → uint8 (T, 3, H, W); ``times`` has the
                U timestamps (s) of each, every one with T / U frames.

        Returns:
            (U, N, C) for each of ``names``; or (n, C), and under :func:`places_of` the name (U, N)
            bool, where the n tokens were.
        """

    @abstractmethod
    def tokens(self, encoded: Mapping[str, Tensor], episode: Mapping[str, Any]) -> list[Stream]:
        """Make the LLM's tokens (U, N, W) of what :meth:`encode` returned, or a store kept."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The streams that answers can depend on, the video first."""
        return self.names

    def can_leave_out(self, name: str) -> bool:
        """Whether the LLM can read a clip without this stream."""
        return True

    def without(self, names: Collection[str], clip: EncodedClip) -> list[Stream]:
        """Make the LLM's tokens of a clip without some of its streams."""
        streams = zip(self.names, self.tokens(clip.encoded, clip.episode), strict=True)
        return [stream for each, stream in streams if each not in names]

    @property
    def reads_whole_video(self) -> bool:
        """Whether the LLM reads all tokens of the video, as the untuned backbone does."""
        return True

    def video_alone(self, clip: EncodedClip) -> list[Stream]:
        """Make the LLM's tokens of a clip's video, as the untuned backbone reads them."""
        return self.tokens(clip.encoded, clip.episode)[:1]

    def with_other(self, name: str, clip: EncodedClip, other: EncodedClip) -> list[Stream]:
        """Make the LLM's tokens of a clip, with one stream of another clip."""
        kinds = name, places_of(name)
        theirs = {each: other.encoded[each] for each in kinds if each in other.encoded}
        times = {**clip.episode["times"], name: other.episode["times"][name]}
        return self.tokens({**clip.encoded, **theirs}, {**clip.episode, "times": times})

    @abstractmethod
    def outline(self, episode: Mapping[str, Any]) -> list[Stream]:
        """The most that :meth:`tokens` makes of an episode with these ``times``, of width 0."""

    def visual_tokens(self, episode: Mapping[str, Any]) -> int:
        """Number of tokens that :meth:`tokens` makes of an episode, by its ``times``."""
        return sum(len(stream.rows) for stream in self.outline(episode))

    @abstractmethod
    def kept_bytes(self, episode: Mapping[str, Any]) -> int:
        """Bytes that a token store needs for an episode."""

    @abstractmethod
    def token_cache_keys(self) -> dict[str, str]:
        """Stream → everything beside the frames that its encoding depends on.

        Raises:
            UserError: the encoding changes during training.
        """

    @abstractmethod
    def reads(self) -> dict[str, dict[str, Any]]:
        """Modality → how it becomes tokens, as plain data."""

    def adapter_metadata(self) -> dict[str, Any]:
        """Plain data to be saved with the LLM's adapter."""
        return {"reads": self.reads()}

    def resume_invariants(self) -> dict[str, Any]:
        """Plain data that must be equal when a run is resumed."""
        return {"reads": self.reads()}

    def trained_adapters(self) -> dict[str, tuple[PeftModel, str]]:
        """Folder name → PEFT model and adapter name of every trained vision adapter."""
        return {}

    def save(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        """Write what is trained here and is not an adapter."""

    def check(self, episode: Mapping[str, Any]) -> None:
        """Raise UserError if a stream is missing, or its timestamps differ in numbers of frames."""
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
                    "data module, which must give every timestamp the same number"
                )

    def refuse_others(self, llm_adapter: SavedAdapter) -> None:
        """Raise AdapterError if an LLM adapter was tuned on other streams than these."""
        tuned_on = llm_adapter.made_with.get("reads")
        if tuned_on is not None and tuned_on != self.reads():
            raise AdapterError(
                f"{llm_adapter.folder} was tuned on {tuned_on}, this run reads {self.reads()}; "
                "give the model.streams of its tuning: the same modalities, keep, reduce, elastic "
                "and positions, or, if it has a patch, PAVE with its side and sizes. Only an "
                "adapter that was tuned with elastic answers with another keep"
            )

    def _cache_key(self, how: Mapping[str, Any]) -> str:
        encoder = {
            "backbone": self.backbone.fingerprint,
            "dtype": str(self.backbone.dtype),
            "normalisation": self.backbone.normalisation,
        }
        return json.dumps({**encoder, **how})
