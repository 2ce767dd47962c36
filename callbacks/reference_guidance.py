"""Computes the interface guidance before fitting, or loads it (paper section 3.2)."""

from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Final

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from callbacks.trainer_access import data, expect_module, is_fast_dev_run, run_folder, writes_files
from vlynx_pl.adapter_training import evaluating
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.guidance import (
    GuidanceError,
    GuidanceSource,
    GuidanceStatistics,
    InterfaceGuidance,
)
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track

_FLOOR: Final = 32  # videos; each gap is a mean over hundreds of patches


class ReferenceGuidance(Callback):
    """Gives the LightningModule its guidance, and saves it in the run folder.

    A guidance that an earlier session saved there is used if it fits. Otherwise each process reads
    its share of the videos; a stopped pass starts again from the beginning. If the objective has an
    attention floor, the first reference videos are measured for it in every session.

    Args:
        path: a guidance file to use; None computes the guidance from the plain RGB videos of the
            data module's ``reference_dataloader()``.
        max_batches: number of reference videos to read; None reads all. A few hundred clips are as
            good as a hundred thousand (paper, Table 7).
    """

    def __init__(self, path: str | None = None, max_batches: int | None = 500) -> None:
        self.path = path
        self.max_batches = max_batches

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = expect_module(pl_module, InterfaceAlignment)
        if self.path is None:
            guidance = self._saved_or_computed(trainer, module)
        else:
            guidance = InterfaceGuidance.load(Path(self.path))
            guidance.check(module.backbone, module.objective.include_newline, Path(self.path))
            if writes_files(trainer):
                guidance.save(run_folder(trainer) / "guidance.safetensors")
        module.use_guidance(guidance)
        if module.objective.attn_floor:
            module.use_attention_floor(_video_gaps(trainer, module))

    def _saved_or_computed(self, trainer: Trainer, module: InterfaceAlignment) -> InterfaceGuidance:
        most = 1 if is_fast_dev_run(trainer) else self.max_batches
        videos = data(trainer).reference_names()[:most]
        source = GuidanceSource.of(
            module.backbone, module.objective.include_newline, videos, data(trainer).preprocessing
        )
        path = run_folder(trainer) / "guidance.safetensors"
        # Only the first rank looks, since network folders may differ between nodes.
        if trainer.strategy.broadcast(writes_files(trainer) and _fits(path, source)):
            guidance = InterfaceGuidance.load(path)
            guidance.check(module.backbone, module.objective.include_newline, path)
            return guidance
        guidance = replace(_computed(trainer, module, len(videos)), source=source)
        if writes_files(trainer):
            guidance.save(path)
        return guidance


def _computed(trainer: Trainer, module: InterfaceAlignment, count: int) -> InterfaceGuidance:
    """Compute the guidance of the first ``count`` videos, of which each rank reads its share."""
    device = module.backbone.device
    statistics = GuidanceStatistics(module.backbone, module.objective.include_newline).to(device)
    share = range(count)[trainer.global_rank :: trainer.world_size]
    loader = data(trainer).reference_dataloader(share)
    batches = track(loader, "Guidance from RGB videos", len(share))
    # Ranks agree after each video, each the same number of times, so that all stop together.
    for _, batch in zip_longest(range(0, count, trainer.world_size), batches):
        if batch is not None:
            statistics.update(batch["frames"].to(device))
        if trainer.strategy.reduce_boolean_decision(asked_to_stop(), all=False):
            raise Interrupted(
                "Stopped while reading reference videos, as asked. Run the same command again to "
                "go on; the videos are read from the beginning."
            )
    return statistics.guidance()


@torch.no_grad()
def _video_gaps(trainer: Trainer, module: InterfaceAlignment) -> Tensor:
    """Measure the attention gaps (L,) of the first reference videos, the same on every rank."""
    most = 1 if is_fast_dev_run(trainer) else _FLOOR
    videos = range(len(data(trainer).reference_names()))[:most]
    if not videos:
        raise UserError("attn_floor=true needs reference videos, of which the data has none")
    loader = data(trainer).reference_dataloader(videos)
    device = module.backbone.device
    with evaluating(module):
        batches = track(loader, "Attention gaps of RGB videos", len(videos))
        gaps = [module.encode(b["frames"].to(device), None).attention_gaps for b in batches]
    return torch.stack(gaps).mean(0)


def _fits(path: Path, source: GuidanceSource) -> bool:
    """Whether an earlier session saved a guidance with the same source; log why not."""
    if not path.exists():
        return False
    try:
        differs = InterfaceGuidance.load(path).source.difference(source)
    except GuidanceError as error:
        differs = str(error.__cause__)
    if differs:
        rank_zero_info(f"{path} does not fit this run and is computed anew: {differs}")
    return not differs
