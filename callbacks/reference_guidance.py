"""Computes the interface guidance before fitting, or loads one that fits (paper section 3.2)."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import track
from torch import Tensor
from typing_extensions import override

from callbacks.access import data, is_trial, leaves_files, run_folder, stage
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.guidance import InterfaceGuidance, estimate_guidance, with_videos


class ReferenceGuidance(Callback):
    """Gives the LightningModule its guidance, and leaves it in the run folder.

    Args:
        path: a guidance file to use; None computes one from the data module's
            ``reference_dataloader()``, plain RGB videos.
        max_batches: stop after so many batches of reference videos; a few hundred clips are as
            good as a hundred thousand (paper, Table 7).
    """

    def __init__(self, path: str | None = None, max_batches: int | None = None) -> None:
        self.path = path
        self.max_batches = max_batches

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = stage(pl_module, InterfaceAlignment)
        if self.path is not None:
            guidance = InterfaceGuidance.load(Path(self.path))
            guidance.check(module.backbone, module.include_newline, Path(self.path))
        else:
            guidance = self._estimate(trainer, module)
        if leaves_files(trainer):
            guidance.save(run_folder(trainer) / "guidance.safetensors")
        module.use_guidance(guidance)

    def _estimate(self, trainer: Trainer, module: InterfaceAlignment) -> InterfaceGuidance:
        loader = data(trainer).reference_dataloader()
        limit = 1 if is_trial(trainer) else self.max_batches
        total = len(loader) if limit is None else min(limit, len(loader))
        videos: list[str] = []
        # Ranks take turns; what they saw is merged when the guidance is computed.
        own = islice(loader, trainer.global_rank, total, trainer.world_size)
        batches = track(
            _frames(own, videos),
            "Guidance from RGB videos",
            len(range(trainer.global_rank, total, trainer.world_size)),
            transient=True,
        )
        guidance = estimate_guidance(module.backbone, batches, module.include_newline)
        return with_videos(guidance, _of_all_ranks(videos, trainer.world_size))


def _frames(batches: Iterable[dict[str, Any]], videos: list[str]) -> Iterator[Tensor]:
    for batch in batches:
        videos.extend(batch["clips"])
        yield batch["frames"]


def _of_all_ranks(names: list[str], ranks: int) -> list[str]:
    """Names seen on any rank, sorted."""
    every = [names]
    if ranks > 1:
        every = [[] for _ in range(ranks)]
        torch.distributed.all_gather_object(every, names)
    return sorted(name for part in every for name in part)
