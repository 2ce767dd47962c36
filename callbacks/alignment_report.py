"""Shows what alignment did: distances to the video interface before → after, and health.

The attention loss alone has a degenerate minimum: tokens that no longer depend on their input. A
user must see that happen, so the table says how much variation is left, relative to RGB video.
"""

import json
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from typing_extensions import override

from callbacks.alignment_figure import save_figure
from callbacks.interruptible_barrier import InterruptibleBarrier
from callbacks.trainer_access import (
    data,
    expect_module,
    is_fast_dev_run,
    run_folder,
    save_logs,
    writes_files,
)
from vlynx_pl.adapter_training import evaluating
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.interface_gap import InterfaceGap, InterfaceGapMeter
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track
from vlynx_pl.runs.provenance import last_session

_NEAR: Final = 1.5  # times RGB video's L_attn: the study's senses have 1.3 or less, or 3.8
_KEPT: Final = "It is measured anew, and nothing else is lost. Run the same command again to go on."


class AlignmentReport(Callback):
    """Measures held-out modality frames before and after fitting, beside plain RGB video.

    Writes ``report.json``, which also marks the run as finished, and ``alignment.png`` into the run
    folder; :meth:`show` prints the table, as the command line does at the end. Each rank measures
    its share; what was measured before fitting is kept in checkpoints.

    Args:
        max_batches: measure at most so many batches of each stream, counted over all ranks; RGB
            videos are read one a batch, modality frames ``data.batch_size`` clips a batch.
        healthy_share: warn when less than this share of the between-sample variance or effective
            rank is left, of that before alignment or of the RGB video tokens', the smaller. In
            experiments/paper a tenth of the variance was of no use, and a third better than before;
            tokens that are merely worse than unaligned ones are not found by this.
    """

    def __init__(self, max_batches: int = 32, healthy_share: float = 0.25) -> None:
        self.max_batches = max_batches
        self.healthy_share = healthy_share
        self.gaps: dict[str, InterfaceGap] = {}
        self.modality = self.safeguard = ""  # what is aligned, and what keeps tokens from collapse

    @property
    @override
    def state_key(self) -> str:
        # What was measured on other batches is not taken from a checkpoint.
        return self._generate_state_key(max_batches=self.max_batches)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {when: asdict(gap) for when, gap in self.gaps.items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.gaps = {when: InterfaceGap(**gap) for when, gap in state_dict.items()}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.gaps = {}  # of a fit before this one; a checkpoint is loaded later

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fast_dev_run(trainer) or self.gaps:
            return
        module, run_data = expect_module(pl_module, InterfaceAlignment), data(trainer)
        positions = range(len(run_data.reference_names()))[: self.max_batches]
        share = positions[trainer.global_rank :: trainer.world_size]
        videos, held_out = run_data.reference_dataloader(share), run_data.val_dataloader()
        self.gaps["video"] = self._measure(module, videos, None, "RGB video")
        self.gaps["before"] = self._measure(module, held_out, None, "Before")

    # Not on_train_end, which is left out where a run goes on that had ended its last epoch.
    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fast_dev_run(trainer):
            return
        module, held_out = (
            expect_module(pl_module, InterfaceAlignment),
            data(trainer).val_dataloader(),
        )
        self.gaps["after"] = self._measure(module, held_out, module.modality, "After")
        if not writes_files(trainer):
            return
        run, self.modality = run_folder(trainer), module.modality
        self.safeguard, _ = module.objective.safeguard
        save_figure(self.gaps, module.guidance, run / "alignment.png")
        save_logs(trainer)  # the report says that the run is finished, so all else comes first
        with atomic_file(run / "report.json") as unfinished:
            report: dict[str, Any] = {**summary(self.gaps), "warnings": self.warnings()}
            report["data"] = data(trainer).report()
            report["provenance"] = last_session(run)
            unfinished.write_text(json.dumps(report, indent=1))

    def warnings(self) -> list[str]:
        """What a user must not overlook about the tokens after alignment."""
        return health_warnings(self.gaps, self.healthy_share, self.safeguard)

    def show(self) -> None:
        """Print the table and warnings.

        Apart from the hooks because the trainer's live progress bar would print over it.
        """
        if "after" not in self.gaps:
            return
        console = Console()
        console.print(table(self.gaps, self.modality))
        for warning in self.warnings():
            console.print(f"[bold red]Warning:[/] {warning}", soft_wrap=True)
        for line in advice(self.gaps, self.modality):
            console.print(f"[bold]Note:[/] {line}", soft_wrap=True, highlight=False)

    @torch.inference_mode()
    def _measure(
        self, module: InterfaceAlignment, loader: DataLoader[Any], adapter: str | None, what: str
    ) -> InterfaceGap:
        meter = InterfaceGapMeter(module.guidance, module.backbone.tokens_per_frame)
        meter.to(module.device)
        barrier = InterruptibleBarrier()
        total = min(self.max_batches, len(loader))
        with evaluating(module):
            for batch in track(islice(loader, total), f"Measuring: {what}", total):
                if asked_to_stop():
                    raise Interrupted(f"Stopped while measuring, as asked. {_KEPT}")
                if len(batch["frames"]):  # a rank may have nothing of the last batch
                    encoded = module.encode(batch["frames"].to(module.device), adapter)
                    meter.update(encoded.tokens, encoded.attention_gaps)
        barrier.wait(_KEPT)
        return meter.gap()


def health_warnings(
    gaps: dict[str, InterfaceGap], healthy_share: float, safeguard: str
) -> list[str]:
    """What a user must not overlook: tokens that hardly depend on their input any more.

    Args:
        gaps: those of RGB video, before and after alignment.
        healthy_share: see AlignmentReport.
        safeguard: the setting of the objective to raise.
    """
    warnings = []
    for sign in ("sample_variance", "effective_rank"):
        # Data that varied little before alignment has not been collapsed by it.
        healthy = healthy_share * min(getattr(gaps[when], sign) for when in ("video", "before"))
        if (left := getattr(gaps["after"], sign)) < healthy:
            warnings.append(
                f"alignment has collapsed the tokens: their {sign.replace('_', ' ')} is "
                f"{left:.3g}, healthy is {healthy:.3g} or more; raise --model.objective."
                f"{safeguard}, lower --model.learning_rate or train for fewer steps"
            )
    return warnings


def advice(gaps: dict[str, InterfaceGap], modality: str) -> list[str]:
    """What to try where alignment may cost more than it brings: the sense was near to video."""
    before, video = (float(gaps[when].attention.mean()) for when in ("before", "video"))
    if before > _NEAR * video:
        return []
    return [
        f"before alignment, attention answered {modality!r} as it answers video (L_attn "
        f"{before:.2f}, RGB video {video:.2f}). In experiments/paper such senses gained nothing by "
        "alignment, or lost; tune without as well, "
        f"--model.streams.modalities='{{{modality}: base}}'"
    ]


def summary(gaps: dict[str, InterfaceGap]) -> dict[str, dict[str, Any]]:
    """The figures of the table, for machines."""
    return {
        when: {
            "attention_per_layer": gap.attention.tolist(),
            "stat": gap.stat,
            "mean_distance": gap.mean_distance,
            "var_distance": gap.var_distance,
            "sample_variance": gap.sample_variance,
            "effective_rank": gap.effective_rank,
        }
        for when, gap in gaps.items()
    }


def table(gaps: dict[str, InterfaceGap], modality: str) -> Table:
    """Rows of distances and health; columns RGB video, before, after."""
    video = gaps["video"]
    table = Table(title=f"Interface alignment of {modality!r} on held-out frames")
    for column in ("", "RGB video", "before", "after"):
        table.add_column(column, justify="left" if column == "" else "right")

    def row(name: str, values: dict[str, str]) -> None:
        table.add_row(name, *(values[when] for when in ("video", "before", "after")))

    layers = torch.arange(len(video.attention)).tensor_split(min(3, len(video.attention)))
    for group in layers:
        name = f"L_attn, layers {int(group[0]) + 1}-{int(group[-1]) + 1}"
        row(name, {k: f"{float(gap.attention[group].mean()):.4f}" for k, gap in gaps.items()})
    row("L_stat", {k: f"{gap.stat:.2f}" for k, gap in gaps.items()})
    row("  token mean, distance", {k: f"{gap.mean_distance:.2f}" for k, gap in gaps.items()})
    row("  token variance, distance", {k: f"{gap.var_distance:.2f}" for k, gap in gaps.items()})
    table.add_section()
    row(
        "health: variance between samples",
        {k: _share(gap.sample_variance, video.sample_variance) for k, gap in gaps.items()},
    )
    row(
        "health: effective rank",
        {
            k: f"{_share(gap.effective_rank, video.effective_rank)} ({gap.effective_rank:.1f})"
            for k, gap in gaps.items()
        },
    )
    return table


def _share(part: float, whole: float) -> str:
    """As a percentage, where there is anything to compare with."""
    return f"{part / whole:.0%}" if whole > 0 else "–"
