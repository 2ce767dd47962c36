"""Variants that may remove what alignment costs where the encoder reads a modality by itself.

A text that names each stream, a floor under L_stat, and a term that keeps the geometry of the
untouched encoder's tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.trainer_access import data, expect_module
from vlynx_pl.adapter_training import evaluating
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.guidance import token_rows
from vlynx_pl.losses import token_statistics_loss
from vlynx_pl.objectives import AlignmentObjective, Encoded
from vlynx_pl.streams import AlignedStreams


class NamedStreams(AlignedStreams):
    """Aligned streams, each modality behind its name as text."""

    @override
    def tokens(self, encoded: Mapping[str, Tensor], episode: Any) -> list[Stream]:
        return self._named(super().tokens(encoded, episode))

    @override
    def outline(self, episode: Any) -> list[Stream]:
        return self._named(super().outline(episode))

    @override
    def reads(self) -> dict[str, dict[str, Any]]:
        how = super().reads()
        return how | {name: how[name] | {"label": _label(name)} for name in self.modalities}

    def _named(self, streams: list[Stream]) -> list[Stream]:
        video, *others = streams
        named = zip(self.modalities, others, strict=True)
        return [video, *(stream._replace(label=_label(name)) for name, stream in named)]


def _label(name: str) -> str:
    return f"\n{name}:\n"


class FlooredObjective(AlignmentObjective):
    """Statistics that come as close as those of a batch of RGB video cost nothing.

    Add :class:`StatisticsFloor` to the callbacks, which measures ``floor``. The arguments are those
    of :class:`AlignmentObjective`.
    """

    floor: float

    @override
    def losses(
        self, backbone: VideoBackbone, encoded: Encoded, clips: int, *rest: Any, **more: Any
    ) -> dict[str, Tensor]:
        found = super().losses(backbone, encoded, clips, *rest, **more)
        stat = (found["stat"] - self.floor).relu()
        total = self.attn_weight * found["attn"] + self.stat_weight * stat
        return found | {"stat": stat, "total": total}


class StatisticsFloor(Callback):
    """Measures L_stat of random frames of RGB video, before training.

    Args:
        frames: number of frames in a training batch of the modality, as L_stat of few frames is
            larger.
        videos: number of reference videos to read.
    """

    def __init__(self, frames: int, videos: int = 256) -> None:
        self.frames, self.videos = frames, videos

    @override
    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module, source = expect_module(pl_module, InterfaceAlignment), data(trainer)
        backbone, objective = module.backbone, module.objective
        guidance, videos = module.guidance, range(len(source.reference_names()))[: self.videos]
        with evaluating(module):
            tokens = torch.cat(
                [
                    backbone.encode(batch["frames"].to(module.device)).flatten(0, 1)
                    for batch in source.reference_dataloader(videos)
                ]
            )  # (F, N, W)
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
        found = [
            token_statistics_loss(
                token_rows(backbone, group[None], objective.include_newline),
                guidance.token_mean.to(group),
                guidance.token_var.to(group),
                relative=objective.stat_scale == "relative",
            )
            for group in tokens[order].split(self.frames)
            if len(group) == self.frames
        ]
        objective.floor = float(torch.stack(found).mean())


@dataclass(frozen=True)
class EncodedTwice(Encoded):
    """Tokens with the adapter, and without."""

    raw: Tensor  # (B, T, N, W)


class GeometryAlignment(InterfaceAlignment):
    """Alignment whose objective also sees the tokens of the untouched encoder."""

    @override
    def encode(self, frames: Tensor, adapter: str | None) -> EncodedTwice:
        encoded = super().encode(frames, adapter)
        with torch.no_grad():
            raw = self.backbone.encode(frames)
        return EncodedTwice(encoded.tokens, encoded.attention_gaps, raw)


class GeometryObjective(AlignmentObjective):
    """Adds 1 − linear CKA of the tokens with and without the adapter.

    CKA (Kornblith et al. 2019, arXiv 1905.00414) is 1 if the tokens of a batch have the same inner
    products, up to one factor and after centring.

    Args:
        geometry_weight: of that term.
        settings: the arguments of :class:`AlignmentObjective`.
    """

    def __init__(self, geometry_weight: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.geometry_weight = geometry_weight

    @override
    def losses(
        self, backbone: VideoBackbone, encoded: Encoded, clips: int, *rest: Any, **more: Any
    ) -> dict[str, Tensor]:
        found = super().losses(backbone, encoded, clips, *rest, **more)
        assert isinstance(encoded, EncodedTwice)
        geometry = 1 - linear_cka(encoded.tokens, encoded.raw)
        total = found["total"] + self.geometry_weight * geometry
        return found | {"geometry": geometry, "total": total}


def linear_cka(one: Tensor, other: Tensor) -> Tensor:
    """Return the linear CKA of n pairs of rows (..., W) and (..., V), a scalar from 0 to 1."""
    one, other = (rows.flatten(0, -2).float() for rows in (one, other))
    one, other = one - one.mean(0), other - other.mean(0)
    within = torch.linalg.norm(one.T @ one) * torch.linalg.norm(other.T @ other)
    return torch.linalg.norm(one.T @ other).square() / within
