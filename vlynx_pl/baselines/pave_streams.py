"""PAVE instead of aligned tokens: a patch adds the side channel to the video's tokens.

Data, questions, losses, answers and scores are those of InstructionTuning.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

from vlynx_pl.adapters import AdapterError, tensors_hash
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.baselines.pave import TemporalPatch
from vlynx_pl.baselines.pave_files import load_patch, read_features, save_patch
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import PRECISION
from vlynx_pl.saved_adapters import SavedAdapter
from vlynx_pl.stream_tokens import EncodedClip, StreamTokens


class PatchedVideo(StreamTokens):
    """The video's tokens plus a trained patch, with an untouched vision encoder.

    The patch is saved beside the LLM's adapter as ``patch-<side>``, and loaded with it. It is
    float32 whatever the backbone's dtype, so that small steps are not lost to rounding.

    Args:
        side: stream that is patched in, such as ``3d``.
        side_features: folder of precomputed features, ``<clip>.safetensors`` with a tensor
            ``features`` (U, R, C), R tokens at each of U timestamps; null uses the features of the
            side's frames before the backbone's projector.
        side_dim: channels C of ``side_features``; null without them.
        hidden: width of the patch.
        heads: of its attention.
        layers: number of its attention layers (3 in PAVE for MUSIC-AVQA).
        tied: project values with the keys' weights, as in the released code.
        learning_rate: peak for the patch; null is that of the LLM's adapter, as in PAVE. The patch
            begins at zero and grows by about this much per step, so LLMs with larger visual tokens
            need a higher one.

    Raises:
        UserError: the settings do not fit together.
    """

    patch: TemporalPatch

    def __init__(
        self,
        side: str,
        side_features: str | None = None,
        side_dim: int | None = None,
        hidden: int = 512,
        heads: int = 4,
        layers: int = 2,
        tied: bool = True,
        learning_rate: float | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", side) or side == "video":
            raise UserError(
                f"model.streams.side={side!r} must name a stream beside the video, in letters, "
                "digits, '_' and '-'"
            )
        if (side_features is None) != (side_dim is None):
            raise UserError(
                f"model.streams.side_features={side_features} and side_dim={side_dim} need each "
                "other; give both, or none to read the side's frames with the backbone"
            )
        if side_features is not None and not Path(side_features).is_dir():
            raise UserError(
                f"model.streams.side_features={side_features} is not a folder; correct it"
            )
        if min(hidden, heads, layers) < 1 or hidden % heads:
            raise UserError(
                f"model.streams.hidden={hidden} must be a multiple of heads={heads}, and "
                f"layers={layers} at least 1"
            )
        names = ("video", side) if side_features is None else ("video",)
        super().__init__(names, {"side": side, "side_features": side_features}, learning_rate)
        self.side, self.side_features, self.side_dim = side, side_features, side_dim
        self._sizes: dict[str, Any] = {
            "hidden": hidden,
            "heads": heads,
            "layers": layers,
            "tied": tied,
        }

    @override
    def attach(self, backbone: VideoBackbone, llm_adapter: SavedAdapter | None) -> None:
        super().attach(backbone, llm_adapter)
        self.side_dim = self.side_dim or backbone.feature_size
        self.patch = TemporalPatch(
            self.side_dim, backbone.hidden_size, backbone.feature_size, **self._sizes
        )
        if llm_adapter is not None:
            self._load(llm_adapter)

    def _load(self, llm_adapter: SavedAdapter) -> None:
        self.refuse_others(
            llm_adapter
        )  # also in training, as no shape depends on the number of heads
        folder = llm_adapter.folder.parent / self._folder
        load_patch(self.patch, folder)
        if llm_adapter.made_with.get("patch") not in (None, self._hash()):
            raise AdapterError(
                f"{folder} is not the patch that {llm_adapter.folder} was tuned with; copy both "
                "folders of one run, or finish a run that was stopped"
            )
        if self.side_features is None:  # otherwise its frames are not read
            self.made_with[self.side] = llm_adapter.made_with

    @property
    def _folder(self) -> str:
        return f"patch-{self.side}"

    def _hash(self) -> str:
        return tensors_hash(self.patch.state_dict())

    @override
    def trained(self) -> nn.Module:
        return self.patch

    @override
    @torch.no_grad()
    def encode(self, episode: Mapping[str, Any]) -> dict[str, Tensor]:
        """The video's tokens with their features (T, N, W + Q), and the side's (T, N, Q)."""
        read = [self.backbone.features(episode["streams"][name][None]) for name in self.names]
        (features, tokens), *side = read
        encoded = [torch.cat([tokens, features], -1)[0], *(only[0] for only, _ in side)]
        return dict(zip(self.names, encoded, strict=True))

    @override
    def tokens(self, encoded: Mapping[str, Tensor], episode: Mapping[str, Any]) -> list[Stream]:
        """The patched video only. The patch has D channels; deep features stay as they are."""
        backbone = self.backbone
        tokens, queries = encoded["video"].tensor_split([backbone.token_size], -1)
        side = encoded[self.side] if self.side_features is None else self._features(episode)
        patch = self.patch(queries.float(), side.float())
        # In the backbone's precision, as small patches are lost in that of kept tokens.
        patch = pad(patch.to(backbone.dtype), (0, backbone.token_size - backbone.hidden_size))
        return [Stream(tokens.to(backbone.dtype) + patch, episode["times"]["video"])]

    def _features(self, episode: Mapping[str, Any]) -> Tensor:
        assert self.side_features is not None and self.side_dim is not None
        if "name" not in episode:
            raise UserError(
                f"a clip without a benchmark has no features in model.streams.side_features="
                f"{self.side_features}; tune PAVE without them to ask about any file"
            )
        features = read_features(Path(self.side_features), episode["name"], self.side_dim)
        return features.to(self.backbone.device)

    @property
    @override
    def sources(self) -> tuple[str, ...]:
        return "video", self.side

    @override
    def can_leave_out(self, name: str) -> bool:
        return name == self.side  # the patch is added to the video's tokens

    @override
    def without(self, names: Collection[str], clip: EncodedClip) -> list[Stream]:
        return self.video_alone(clip)

    @override
    def video_alone(self, clip: EncodedClip) -> list[Stream]:
        tokens = clip.encoded["video"][..., : self.backbone.token_size]
        return [Stream(tokens.to(self.backbone.dtype), clip.episode["times"]["video"])]

    @override
    def with_other(self, name: str, clip: EncodedClip, other: EncodedClip) -> list[Stream]:
        if name in self.names:
            return super().with_other(name, clip, other)
        # The side's features are read by the clip's name.
        return self.tokens(clip.encoded, {**clip.episode, "name": other.episode["name"]})

    @override
    def outline(self, episode: Mapping[str, Any]) -> list[Stream]:
        times = episode["times"]["video"]
        return [Stream(torch.empty(len(times), self.backbone.tokens_per_frame, 0), times)]

    @override
    def kept_bytes(self, episode: Mapping[str, Any]) -> int:
        features = self.backbone.feature_size
        channels = {"video": self.backbone.token_size + features, self.side: features}
        numbers = sum(len(episode["streams"][name]) * channels[name] for name in self.names)
        return numbers * self.backbone.tokens_per_frame * PRECISION.itemsize

    @override
    def token_cache_keys(self) -> dict[str, str]:
        # Nothing that is trained is kept, so the keys do not depend on the patch.
        kept = ("tokens and features", "features")
        pairs = zip(self.names, kept, strict=False)
        return {name: self._cache_key({"kept": what}) for name, what in pairs}

    @override
    def reads(self) -> dict[str, dict[str, Any]]:
        features = "backbone" if self.side_features is None else "computed beforehand"
        return {self.side: {"features": features, "channels": self.side_dim, "patch": self._sizes}}

    @override
    def adapter_metadata(self) -> dict[str, Any]:
        # Adapters and kept answers are valid with this patch only.
        return super().adapter_metadata() | {"patch": self._hash()}

    @override
    def save(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        save_patch(self.patch, folder / self._folder, made_with)
