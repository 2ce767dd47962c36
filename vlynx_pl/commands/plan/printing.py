"""What ``vlynx plan`` prints, and what the message of a run out of memory says."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from vlynx_pl.commands.plan.making import make_plan, parsed_run
from vlynx_pl.commands.plan.needs import CUDA, GPUS, Gpu, Plan, fits, remedies
from vlynx_pl.io.errors import UserError
from vlynx_pl.memory import total_bytes

MFU: Final = 0.35
"""Assumed share of a GPU's speed that training reaches."""


def as_data(plan: Plan, gpus: Mapping[str, Gpu], clips: int) -> dict[str, Any]:
    """Return the estimate as plain data; memory is in GiB, storage in GB."""
    rows, steps = {}, math.ceil(clips / plan.clips) * plan.epochs
    for name, gpu in gpus.items():
        step = plan.fit(gpu.gib)
        rows[name] = {
            "memory_gib": gpu.gib,
            "peak_gib": round((step.peak + CUDA) / 2**30, 2),
            "fits": fits(plan, gpu),
            "remedies": remedies(plan, gpu),
            "frame_chunk": step.frame_chunk,
            "checkpointing": step.checkpointing,
            "tflop_per_step": round(step.flops / 1e12, 2),
            "hours": round(steps * step.flops / (MFU * gpu.peak) / 3600, 2),
        }
    return {
        "parts_gib": {name: round(size / 2**30, 3) for name, size in plan.fixed().items()},
        "frame_gib": round(max(v.each.kept for v in plan.visions) / 2**30, 4),
        "disk_gb": {
            name: round(size * (1 if name == "guidance" else clips) / 1e9, 3)
            for name, size in plan.disk.items()
        },
        "clips": clips,
        "epochs": plan.epochs,
        "gpus": rows,
    }


def estimate(run: Mapping[str, Any], device: torch.device) -> str:
    """Say in a sentence what a step of a run needs; nothing if it cannot be measured."""
    try:
        plan = make_plan(run)
    except (UserError, RuntimeError):
        return ""
    gib = total_bytes(device) / 2**30
    step = plan.fit(gib)
    parts = {**plan.fixed(), "activations": step.peak - sum(plan.fixed().values())}
    listed = ", ".join(f"{size / 2**30:.2f} {name}" for name, size in parts.items())
    advice = " ".join(f"--{setting}" for setting in remedies(plan, Gpu(gib, 0)))
    return (
        f"By vlynx plan a step needs {step.peak / 2**30:.2f} GiB ({listed}), and this device has "
        f"{gib:.2f}" + (f"; it fits with {advice}" if advice else "")
    )


def print_plan(
    arguments: list[str],
    gpu: str | None,
    clips: int,
    question_tokens: int | None,
    as_json: bool,
) -> None:
    """Print what a run with these arguments needs.

    Raises:
        UserError: the configuration cannot be used, or the GPU is unknown.
    """
    if gpu is not None and gpu not in GPUS:
        raise UserError(f"no figures for the GPU {gpu!r}; there are some for {', '.join(GPUS)}")
    gpus = GPUS if gpu is None else {gpu: GPUS[gpu]}
    run = parsed_run("vlynx plan", arguments)
    with Console(stderr=True).status("Measuring shapes (a minute for a model of 7B)"):
        data = as_data(make_plan(run, question_tokens), gpus, clips)
    if as_json:
        print(json.dumps(data, indent=1))
        return
    _print_tables(data)


def _print_tables(data: Mapping[str, Any]) -> None:
    console = Console()
    parts = Table("needed for any batch", "GiB", title="Memory of a process")
    for name, size in data["parts_gib"].items():
        parts.add_row(name, f"{size:.2f}")
    console.print(parts)
    gpus = Table(title=f"One training step, and {data['clips']:,} clips × {data['epochs']} epochs")
    columns = ("GPU", "GiB", "needed", "frame chunk", "checkpointing", "TFLOP", "hours", "")
    for number, name in enumerate(columns):
        gpus.add_column(name, justify="right" if 0 < number < len(columns) - 1 else "left")
    for name, row in data["gpus"].items():
        gpus.add_row(
            name,
            f"{row['memory_gib']:.0f}",
            f"{row['peak_gib']:.1f}",
            str(row["frame_chunk"] or "all"),
            "yes" if row["checkpointing"] else "no",
            f"{row['tflop_per_step']:,.0f}",
            f"{row['hours']:.1f}",
            "fits" if row["fits"] else "too small",
        )
    console.print(gpus)
    for name, row in data["gpus"].items():
        if not row["fits"]:
            advice = " and ".join(f"--{setting}" for setting in row["remedies"])
            otherwise = "use a smaller backbone, or more GPUs with a smaller share of the batch"
            console.print(f"{name} is too small: {advice or otherwise}")
    stored = ", ".join(f"{name} {size:.1f} GB" for name, size in data["disk_gb"].items())
    console.print(f"On disk, if kept: {stored}.")
    console.print(
        f"Hours assume {MFU:.0%} of the GPU's bfloat16 speed, and no waiting for data; validation "
        "and the guidance come in addition."
    )
