"""Reports what alignment did: distances to the video interface before and after, and health.

The attention loss alone has a degenerate minimum: tokens that no longer depend on their input. So
the table shows how much variation is left, relative to RGB video.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from callbacks.alignment_figure import save_figure
from callbacks.interruptible_barrier import InterruptibleBarrier
from callbacks.landing_table import landing_table, layer_groups
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
from vlynx_pl.analysis.landing import landing
from vlynx_pl.analysis.layer_spread import LayerSpread
from vlynx_pl.analysis.names import vocabulary
from vlynx_pl.analysis.samples import Sample, TokenSample
from vlynx_pl.attention import listen
from vlynx_pl.interface_gap import InterfaceGap, InterfaceGapMeter
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track
from vlynx_pl.runs.cards import write_cards
from vlynx_pl.runs.provenance import last_session

_NEAR: Final = 1.5  # times RGB video's L_attn; modalities of the study have up to 1.3, or 3.8
_ROWS: Final = 1024  # tokens of each stream that are told apart and named
_KEPT: Final = "It is measured anew, and nothing else is lost. Run the same command again to go on."


class AlignmentReport(Callback):
    """Measures held-out modality frames before and after fitting, beside plain RGB video.

    Also tells the tokens apart from video, names them, and follows their variance through the
    layers. Writes ``alignment.png`` and ``report.json`` into the run folder; the latter marks the
    run as finished. :meth:`show` prints the tables. Each process measures its share of the batches,
    and what was measured before fitting is kept in checkpoints.

    Args:
        max_batches: most batches to measure of each stream, over all ranks. A batch is one RGB
            video, or ``data.batch_size`` clips of modality frames.
        healthy_share: warn when the between-sample variance or the effective rank falls below this
            share of its value before alignment or for RGB video, whichever is smaller. In
            experiments/paper, tokens with a tenth of the variance were useless, and with a third
            better than before alignment. Tokens that are only slightly worse are not detected.
    """

    def __init__(self, max_batches: int = 32, healthy_share: float = 0.25) -> None:
        self.max_batches = max_batches
        self.healthy_share = healthy_share
        self.gaps: dict[str, InterfaceGap] = {}
        self._samples: dict[str, Sample] = {}
        self._spreads: dict[str, Tensor] = {}
        self._landing: dict[str, dict[str, Any]] = {}
        self.modality = self.safeguard = ""  # the setting that keeps tokens from collapsing

    @property
    @override
    def state_key(self) -> str:
        # A checkpoint's measurements count only if they are of the same batches.
        return self._generate_state_key(max_batches=self.max_batches, rows=_ROWS)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            when: {
                "gap": asdict(gap),
                "sample": tuple(self._samples[when]),
                "spread": self._spreads[when],
            }
            for when, gap in self.gaps.items()
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.gaps = {when: InterfaceGap(**one["gap"]) for when, one in state_dict.items()}
        self._samples = {when: Sample(*one["sample"]) for when, one in state_dict.items()}
        self._spreads = {when: one["spread"] for when, one in state_dict.items()}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.gaps = {}  # forget an earlier fit; a checkpoint is loaded later

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fast_dev_run(trainer) or self.gaps:
            return
        module, run_data = expect_module(pl_module, InterfaceAlignment), data(trainer)
        positions = range(len(run_data.reference_names()))[: self.max_batches]
        share = positions[trainer.global_rank :: trainer.world_size]
        videos, held_out = run_data.reference_dataloader(share), run_data.val_dataloader()
        self._measure(module, videos, None, "video", "RGB video")
        self._measure(module, held_out, None, "before", "Before")

    # Not in on_train_end, which Lightning skips in a run that goes on after its last epoch.
    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fast_dev_run(trainer):
            return
        module = expect_module(pl_module, InterfaceAlignment)
        held_out = data(trainer).val_dataloader()
        self._measure(module, held_out, module.modality, "after", "After")
        if not writes_files(trainer):
            return
        run, self.modality = run_folder(trainer), module.modality
        self.safeguard, _ = module.objective.safeguard
        save_figure(self.gaps, module.guidance, run / "alignment.png")
        self._landing = landing(vocabulary(module.backbone), self._samples, self._spreads)
        save_logs(trainer)  # before the report, which marks the run as finished
        report = {
            **summary(self.gaps),
            "landing": self._landing,
            "warnings": self.warnings(),
            "data": data(trainer).report(),
            "provenance": last_session(run),
        }
        write_cards(run, {"report": report})
        with atomic_file(run / "report.json") as unfinished:
            unfinished.write_text(json.dumps(report, indent=1))

    def warnings(self) -> list[str]:
        """Return what a user must know about the tokens after alignment."""
        return health_warnings(self.gaps, self.healthy_share, self.safeguard)

    def show(self) -> None:
        """Print the table and the warnings, after the trainer's progress bar has ended."""
        if "after" not in self.gaps:
            return
        console = Console()
        console.print(table(self.gaps, self.modality))
        console.print(landing_table(self._landing))
        for warning in self.warnings():
            console.print(f"[bold red]Warning:[/] {warning}", soft_wrap=True)
        for line in advice(self.gaps, self.modality):
            console.print(f"[bold]Note:[/] {line}", soft_wrap=True, highlight=False)

    @torch.inference_mode()
    def _measure(
        self,
        module: InterfaceAlignment,
        loader: DataLoader[Any],
        adapter: str | None,
        when: str,
        what: str,
    ) -> None:
        backbone, channels = module.backbone, module.backbone.hidden_size
        meter = InterfaceGapMeter(module.guidance, backbone.tokens_per_frame, channels)
        sample, spread = TokenSample(channels, _ROWS), LayerSpread(backbone)
        for metric in (meter, sample, spread):
            metric.to(module.device)
        barrier = InterruptibleBarrier()
        total = min(self.max_batches, len(loader))
        layers = backbone.attention_layers()
        with evaluating(module), listen(layers, spread.update, backbone.positions):
            for batch in track(islice(loader, total), f"Measuring: {what}", total):
                if asked_to_stop():
                    raise Interrupted(f"Stopped while measuring, as asked. {_KEPT}")
                if len(batch["frames"]):  # a rank may have no part of the last batch
                    encoded = module.encode(batch["frames"].to(module.device), adapter)
                    meter.update(encoded.tokens, encoded.attention_gaps)
                    for clip, tokens in zip(batch["clips"], encoded.tokens, strict=True):
                        sample.update(clip, tokens[..., :channels])
        barrier.wait(_KEPT)
        self.gaps[when] = meter.gap()
        self._samples[when], self._spreads[when] = sample.sample(), spread.spread()


def health_warnings(
    gaps: dict[str, InterfaceGap], healthy_share: float, safeguard: str
) -> list[str]:
    """Return a warning for each sign that the tokens hardly depend on their input any more.

    Args:
        gaps: of RGB video (``video``), and ``before`` and ``after`` alignment.
        healthy_share: see AlignmentReport.
        safeguard: the setting of the objective to raise.
    """
    warnings = []
    for sign in ("sample_variance", "effective_rank"):
        # Data that varied little before alignment were not collapsed by it.
        healthy = healthy_share * min(getattr(gaps[when], sign) for when in ("video", "before"))
        if (left := getattr(gaps["after"], sign)) < healthy:
            warnings.append(
                f"alignment has collapsed the tokens: their {sign.replace('_', ' ')} is "
                f"{left:.3g}, healthy is {healthy:.3g} or more; raise --model.objective."
                f"{safeguard}, lower --model.learning_rate or train for fewer steps"
            )
    return warnings


def advice(gaps: dict[str, InterfaceGap], modality: str) -> list[str]:
    """Return what to try if the modality was so near to video that alignment may not help."""
    before, video = (float(gaps[when].attention.mean()) for when in ("before", "video"))
    if before > _NEAR * video:
        return []
    return [
        f"before alignment, attention answered {modality!r} as it answers video (L_attn "
        f"{before:.2f}, RGB video {video:.2f}). In experiments/paper such modalities gained "
        "nothing from alignment, or lost; tune without it as well, "
        f"--model.streams.modalities='{{{modality}: base}}'"
    ]


def summary(gaps: dict[str, InterfaceGap]) -> dict[str, dict[str, Any]]:
    """Return the figures of the table as plain numbers."""
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
    """Return a table of distances and health for RGB video, before and after."""
    video = gaps["video"]
    table = Table(title=f"Interface alignment of {modality!r} on held-out frames")
    for column in ("", "RGB video", "before", "after"):
        table.add_column(column, justify="left" if column == "" else "right")

    def row(name: str, figure: Callable[[InterfaceGap], str]) -> None:
        table.add_row(name, *(figure(gaps[when]) for when in ("video", "before", "after")))

    def layers(group: Tensor) -> Callable[[InterfaceGap], str]:
        return lambda gap: f"{gap.attention[group].mean():.4f}"

    def share(name: str) -> Callable[[InterfaceGap], str]:
        whole = getattr(video, name)
        return lambda gap: f"{getattr(gap, name) / whole:.0%}" if whole > 0 else "–"

    for name, group in layer_groups(len(video.attention)):
        row(f"L_attn, {name}", layers(group))
    row("L_stat", lambda gap: f"{gap.stat:.2f}")
    row("  token mean, distance", lambda gap: f"{gap.mean_distance:.2f}")
    row("  token variance, distance", lambda gap: f"{gap.var_distance:.2f}")
    table.add_section()
    rank = share("effective_rank")
    row("health: variance between samples", share("sample_variance"))
    row("health: effective rank", lambda gap: f"{rank(gap)} ({gap.effective_rank:.1f})")
    return table
