"""Computes the interface guidance before fitting, or loads one that fits (paper section 3.2).

A pass that was stopped goes on: each rank keeps its sums, and which videos they are of. The order
of the pass is the data module's; its positions are what ranks share and what files note.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import override

from callbacks.access import data, is_trial, leaves_files, run_folder, stage
from vlynx_pl.adapter_training import evaluating
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.errors import FOREIGN, UserError
from vlynx_pl.files import atomic_file
from vlynx_pl.guidance import (
    GuidanceError,
    GuidanceSource,
    GuidanceStatistics,
    InterfaceGuidance,
)
from vlynx_pl.interruption import Interrupted, asked_to_stop
from vlynx_pl.progress import track

_FORMAT: Final = "vlynx-unfinished-guidance-1"
_FLOOR: Final = 32  # videos; gaps are means over hundreds of patches each
_OF_A_RANK: Final = re.compile(r"rank-(\d+)-of-\d+\.safetensors")


class ReferenceGuidance(Callback):
    """Gives the LightningModule its guidance, and leaves it in the run folder.

    What an earlier session of the run left there is used where it fits: the guidance itself, or
    ``guidance.unfinished``, the sums of a pass that was stopped, by any number of ranks. Where the
    module has an attention floor, the first reference videos are measured for it in every session.

    Args:
        path: a guidance file to use; None computes one from the data module's
            ``reference_dataloader()``, plain RGB videos.
        max_batches: stop after so many batches of reference videos, one each; a few hundred clips
            are as good as a hundred thousand (paper, Table 7). None reads all.
        save_every: keep the sums after so many videos of a rank; some 350 MB a rank for SigLIP
            so400m. Ranks wait for each other there, and once more to merge, so that none may fall
            behind by more than the process group's time-out, 30 minutes by default.
    """

    def __init__(
        self, path: str | None = None, max_batches: int | None = 500, save_every: int = 100
    ) -> None:
        if save_every < 1:
            raise UserError(f"save_every={save_every} must be 1 or more; it counts videos")
        self.path = path
        self.max_batches = max_batches
        self.save_every = save_every

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = stage(pl_module, InterfaceAlignment)
        if self.path is None:
            guidance = self._of_the_run(trainer, module)
        else:
            guidance = InterfaceGuidance.load(Path(self.path))
            guidance.check(module.backbone, module.include_newline, Path(self.path))
            if leaves_files(trainer):
                guidance.save(run_folder(trainer) / "guidance.safetensors")
        module.use_guidance(guidance)
        if module.attn_floor:
            module.use_attention_floor(_video_gaps(trainer, module))

    def _of_the_run(self, trainer: Trainer, module: InterfaceAlignment) -> InterfaceGuidance:
        videos = data(trainer).reference_names()[: 1 if is_trial(trainer) else self.max_batches]
        source = GuidanceSource.of(
            module.backbone, module.include_newline, videos, data(trainer).preprocessing
        )
        path = run_folder(trainer) / "guidance.safetensors"
        unfinished = path.with_suffix(".unfinished")
        # Only the first rank looks, since folders on network disks may not look alike from all.
        if trainer.strategy.broadcast(leaves_files(trainer) and _fits(path, source)):
            guidance = InterfaceGuidance.load(path)
            guidance.check(module.backbone, module.include_newline, path)
        else:
            statistics = self._read(trainer, module, source, unfinished)
            if statistics is None:
                raise Interrupted(
                    "Stopped while reading reference videos, as asked; what they gave is in "
                    f"{unfinished}. Run the same command again to go on."
                )
            guidance = replace(statistics.guidance(), source=source)
            if leaves_files(trainer):
                guidance.save(path)
        if leaves_files(trainer):  # the others have merged theirs, so they write no more
            shutil.rmtree(unfinished, ignore_errors=True)
        return guidance

    def _read(
        self, trainer: Trainer, module: InterfaceAlignment, source: GuidanceSource, folder: Path
    ) -> GuidanceStatistics | None:
        """What this rank has of the pass; None when a rank was asked to stop, with all saved."""
        rank, ranks, trial = trainer.global_rank, trainer.world_size, is_trial(trainer)
        statistics = GuidanceStatistics(module.backbone, module.include_newline)
        shapes = {name: list(sums.shape) for name, sums in _state(statistics).items()}
        kept = _kept(folder, source, shapes) if leaves_files(trainer) else {}
        before = trainer.strategy.broadcast(kept)
        seen = {position for positions in before.values() for position in positions}
        if seen:
            rank_zero_info(f"Going on after {len(seen)} of {len(source.videos)} reference videos")
        shares = [
            [position for position in range(r, len(source.videos), ranks) if position not in seen]
            for r in range(ranks)
        ]
        statistics.to(device := module.backbone.newline.device)
        former = [name for name in before if _rank(name) % ranks == rank]
        done = [position for name in former for position in before[name]]
        for name in former:
            statistics.merge_state(load_file(folder / name, str(device)))
        loader = data(trainer).reference_dataloader(shares[rank])
        batches = track(loader, "Guidance from RGB videos", len(shares[rank]))
        left = zip(shares[rank], batches, strict=True)
        # As many rounds on every rank, so that all meet after each and stop together.
        for _ in range(0, max(map(len, shares)), self.save_every):
            count = len(done)
            for position, batch in islice(left, self.save_every):
                statistics.update(batch["frames"].to(device))
                done.append(position)
                if asked_to_stop():
                    break
            if len(done) > count and not trial:
                path = folder / f"rank-{rank}-of-{ranks}.safetensors"
                _keep(path, statistics, done, source)
                for name in {*former} - {path.name}:  # they are in it now
                    (folder / name).unlink(missing_ok=True)
            if trainer.strategy.reduce_boolean_decision(asked_to_stop(), all=False):
                return None
        next(left, None)  # lets the progress bar end
        return statistics


@torch.no_grad()
def _video_gaps(trainer: Trainer, module: InterfaceAlignment) -> Tensor:
    """(L,) attention gaps of the first reference videos, the same ones on every rank."""
    videos = range(len(data(trainer).reference_names()))[: 1 if is_trial(trainer) else _FLOOR]
    if not videos:
        raise UserError("attn_floor=true needs reference videos, of which the data has none")
    loader = data(trainer).reference_dataloader(videos)
    device = module.backbone.newline.device
    with evaluating(module):
        batches = track(loader, "Attention gaps of RGB videos", len(videos))
        gaps = [module.encode(b["frames"].to(device), None).attention_gaps for b in batches]
    return torch.stack(gaps).mean(0)


def _fits(path: Path, source: GuidanceSource) -> bool:
    """Whether an earlier session left a guidance made of the very same; says why not."""
    if not path.exists():
        return False
    try:
        differs = InterfaceGuidance.load(path).source.difference(source)
    except GuidanceError as error:
        differs = str(error.__cause__)
    if differs:
        rank_zero_info(f"{path} does not fit this run and is computed anew: {differs}")
    return not differs


def _keep(
    path: Path, statistics: GuidanceStatistics, positions: list[int], source: GuidanceSource
) -> None:
    """Write what a rank has summed up, and over which positions of the pass."""
    tensors = {name: sums.cpu().contiguous() for name, sums in _state(statistics).items()}
    with atomic_file(path) as unfinished:
        notes = {"format": _FORMAT, **source.notes()}
        save_file({**tensors, "positions": torch.tensor(positions)}, unfinished, notes)


def _kept(
    folder: Path, source: GuidanceSource, shapes: Mapping[str, list[int]]
) -> dict[str, list[int]]:
    """Files of an earlier session that can be gone on from, and the positions that each holds."""
    found = {}
    for path in sorted(folder.glob("rank-*")):
        if _OF_A_RANK.fullmatch(path.name):
            try:
                found[path.name] = _positions(path, source, shapes)
            except (*FOREIGN, SafetensorError) as error:
                rank_zero_info(f"{path} is left out and its videos are read again: {error}")
    usable: dict[str, list[int]] = {}
    every: set[int] = set()
    # A session killed after it saved may leave what it had gone on from, which is a part of that.
    for name in sorted(found, key=lambda name: -len(found[name])):
        if every.isdisjoint(found[name]):
            usable[name] = found[name]
            every.update(found[name])
    return usable


def _positions(path: Path, source: GuidanceSource, shapes: Mapping[str, list[int]]) -> list[int]:
    with safe_open(path, "pt") as file:
        notes = file.metadata() or {}
        if notes.get("format") != _FORMAT:
            raise ValueError(f"its format is {notes.get('format')!r}, not {_FORMAT!r}")
        if differs := GuidanceSource.of_notes(notes).difference(source):
            raise ValueError(differs)
        for name, shape in shapes.items():
            if (there := file.get_slice(name).get_shape()) != shape:
                raise ValueError(f"its {name} has shape {there}, not {shape}")
        found = file.get_tensor("positions")
    if (
        (found.ndim, found.dtype) != (1, torch.int64)
        or len(found.unique()) < len(found)
        or not ((found >= 0) & (found < len(source.videos))).all()
    ):
        raise ValueError("what it notes are no positions of the pass")
    positions: list[int] = found.tolist()
    return positions


def _state(statistics: GuidanceStatistics) -> Mapping[str, Tensor]:
    state: Mapping[str, Any] = statistics.metric_state
    return state


def _rank(name: str) -> int:
    """Whose file it is."""
    return int(name.split("-")[1])
