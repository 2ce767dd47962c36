"""PAVE in the same harness: the LLM is tuned with a patch, in the place of aligned tokens.

The LLM sees the video alone, and the patch (see pave.py) adds the side channel to its tokens. Data,
questions, losses, answers and scores are those of InstructionTuning.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from vlynx_pl.adapters import LLM_LORA, AdapterError, Lora, tensors_hash
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.baselines.pave import TemporalPatch
from vlynx_pl.baselines.pave_files import load_patch, read_features, save_patch
from vlynx_pl.errors import UserError
from vlynx_pl.tensor_store import PRECISION
from vlynx_pl.tuning import InstructionTuning


class PaveTuning(InstructionTuning):
    """Trains one task's LLM adapter and a patch on episodes; the visual road stays untouched.

    Patch and adapter are saved side by side, as ``patch-<side>`` and ``llm-<task>``. The patch is
    in float32 whatever the backbone is in, so that its small steps are not rounded away.

    Args:
        backbone: the frozen Video LLM; the LLM's adapter is added to it here.
        task: name of the LLM adapter, such as ``scanqa``.
        side: stream that is patched in, such as ``3d``.
        side_features: folder of features computed beforehand, ``<clip>.safetensors`` with a tensor
            ``features`` (U, R, C) each, R tokens at each of U moments; null takes the features of
            the side's pictures before the backbone's own projector.
        side_dim: their channels C; null without ``side_features``.
        hidden: width of the patch.
        heads: of its attention.
        layers: number of its attention layers (3 in PAVE for MUSIC-AVQA).
        tied: its values are projected by the keys' weights, as in the released code.
        lora: an LLM adapter that begins from nothing; of a loaded one, only the dropout counts.
        llm_adapter: folder of an LLM adapter to begin with, or to evaluate, whatever its rank. Its
            patch lies beside it, and is loaded with it.
        question_budget: see InstructionTuning, as for all that follows.
        max_new_tokens: most tokens of an answer.
        choices: letters, the most likely of which is the answer.
        checkpointing: compute the LLM's activations again for the backward pass.
        learning_rate: peak of AdamW's learning rate.
        patch_learning_rate: peak of the patch's; null is ``learning_rate``, as in PAVE. What is
            added to a token begins at zero and grows by about this much a step, so the larger an
            LLM's visual tokens are, the higher it must be.
        warmup: share of all steps with a linearly rising rate, before a cosine to zero.

    Raises:
        UserError: settings that do not go together.
        AdapterError: ``llm_adapter`` or its patch is damaged, or was tuned otherwise.
    """

    def __init__(
        self,
        backbone: VideoBackbone,
        task: str,
        side: str,
        side_features: str | None = None,
        side_dim: int | None = None,
        hidden: int = 512,
        heads: int = 4,
        layers: int = 2,
        tied: bool = True,
        lora: Lora = LLM_LORA,
        llm_adapter: str | None = None,
        question_budget: int = 4096,
        max_new_tokens: int = 64,
        choices: str = "",
        checkpointing: bool = False,
        learning_rate: float = 2e-5,
        patch_learning_rate: float | None = None,
        warmup: float = 0.03,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", side) or side == "video":
            raise UserError(
                f"model.side={side!r} must name a stream beside the video, in letters, digits, '_' "
                "and '-'"
            )
        if (side_features is None) != (side_dim is None):
            raise UserError(
                f"model.side_features={side_features} and model.side_dim={side_dim} need each "
                "other; give both, or none to read the side's pictures with the backbone"
            )
        if side_features is not None and not Path(side_features).is_dir():
            raise UserError(f"model.side_features={side_features} is no folder; correct it")
        if min(hidden, heads, layers) < 1 or hidden % heads:
            raise UserError(
                f"model.hidden={hidden} must be a multiple of model.heads={heads}, and "
                f"model.layers={layers} at least 1"
            )
        super().__init__(
            backbone,
            task,
            lora=lora,
            llm_adapter=llm_adapter,
            question_budget=question_budget,
            max_new_tokens=max_new_tokens,
            choices=choices,
            checkpointing=checkpointing,
            learning_rate=learning_rate,
            warmup=warmup,
        )
        self.side, self.side_features = side, side_features
        self.patch_learning_rate = patch_learning_rate
        self.side_dim = side_dim or backbone.feature_size
        self._sizes = {"hidden": hidden, "heads": heads, "layers": layers, "tied": tied}
        self.patch = TemporalPatch(
            self.side_dim, backbone.hidden_size, backbone.feature_size, hidden, heads, layers, tied
        )
        if llm_adapter is not None:
            self._load_patch(Path(llm_adapter))

    def _load_patch(self, llm_adapter: Path) -> None:
        self._check_senses()  # in training too: how many heads there were, no shape tells
        made_with = self._saved(str(llm_adapter)).made_with
        folder = llm_adapter.parent / self._patch_folder
        load_patch(self.patch, folder)
        if made_with.get("patch") not in (None, self._patch_hash()):
            raise AdapterError(
                f"{folder} is not the patch that {llm_adapter} was tuned with; copy both folders "
                "of one run, or let a run that was stopped end"
            )
        if self.side_features is None:  # else its pictures do not matter
            self.made_with[self.side] = made_with

    @property
    def _patch_folder(self) -> str:
        return f"patch-{self.side}"

    def _patch_hash(self) -> str:
        return tensors_hash(self.patch.state_dict())

    @override
    def save_adapters(self, folder: Path, made_with: Mapping[str, Any]) -> None:
        super().save_adapters(folder, made_with)
        save_patch(self.patch, folder / self._patch_folder, made_with)

    @override
    def learning_rates(self) -> list[tuple[nn.Module, float | None]]:
        return [(self.patch, self.patch_learning_rate)]

    @override
    def notes(self) -> dict[str, Any]:
        # So that neither an adapter nor answers are taken for those of another patch.
        return super().notes() | {"patch": self._patch_hash()}

    @override
    def _reads(self) -> dict[str, dict[str, Any]]:
        features = "backbone" if self.side_features is None else "computed beforehand"
        return {self.side: {"features": features, "channels": self.side_dim, "patch": self._sizes}}

    @property
    @override
    def asking(self) -> dict[str, Any]:
        return super().asking | {"side": self.side, "side_features": self.side_features}

    @property
    @override
    def roads(self) -> dict[str, str]:
        # Nothing that is trained is kept: what reads the tokens is no part of their road.
        kept = ("tokens and features", "features")
        return {
            name: self._road({"kept": what})
            for name, what in zip(self.read_streams, kept, strict=False)
        }

    @property
    @override
    def read_streams(self) -> tuple[str, ...]:
        return ("video", self.side) if self.side_features is None else ("video",)

    @override
    def kept_bytes(self, episode: Mapping[str, Any]) -> int:
        self._check(episode)
        streams = episode["streams"]
        features = self.backbone.feature_size
        channels = {"video": self.backbone.hidden_size + features, self.side: features}
        numbers = sum(len(streams[name]) * channels[name] for name in self.read_streams)
        return numbers * self.backbone.tokens_per_frame * PRECISION.itemsize

    @override
    def encode(self, episode: Mapping[str, Any]) -> list[Tensor]:
        """The patched video, (T, N, D), and nothing else."""
        video, *read = self.read(episode)
        tokens = video[..., : self.backbone.hidden_size]
        queries = video[..., self.backbone.hidden_size :]
        side = read[0] if self.side_features is None else self._features(episode)
        patch = self.patch(queries.float(), side.float())
        # In the backbone's precision: kept tokens have less, which small patches are lost in.
        kind = self.backbone.newline.dtype
        return [tokens.to(kind) + patch.to(kind)]

    def _features(self, episode: Mapping[str, Any]) -> Tensor:
        assert self.side_features is not None
        if "name" not in episode:
            raise UserError(
                f"a clip of no benchmark has no features in model.side_features="
                f"{self.side_features}; tune PAVE without them to ask about any file"
            )
        folder = Path(self.side_features)
        return read_features(folder, episode["name"], self.side_dim).to(self.device)

    @override
    @torch.no_grad()
    def _read(self, episode: Mapping[str, Any]) -> list[Tensor]:
        self._check(episode)
        streams = episode["streams"]
        read = [self.backbone.features(streams[name][None]) for name in self.read_streams]
        (features, tokens), *side = read
        return [torch.cat([tokens, features], -1)[0], *(only[0] for only, _ in side)]
