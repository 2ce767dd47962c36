"""Align, tune and evaluate a model of the real size with random weights, and compare with the plan.

The command lines are the real ones, on three small scenes of the toy world and with few frames. Run
it first on a new GPU. On two CPU cores without bfloat16 arithmetic the encoder alone takes 40 s for
a frame, and the rehearsal well over a quarter of an hour.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from transformers import AutoModelForImageTextToText
from typing_extensions import override

from experiments.speed.bench import allocated_peak, new_table
from vlynx_pl.backbones import backbone_without_weights
from vlynx_pl.commands.plan.making import make_plan, parsed_run

MINIATURE = Path("experiments/miniature")
GIB = 2**30


class Meter(Callback):
    """Writes the peak of memory and the seconds of the last training step into a file.

    The memory is that of tensors, as the allocator counts it, and not that of the process.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.began = 0.0
        self.profile: torch.profiler.profile | None = None

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        else:
            self.profile = torch.profiler.profile(profile_memory=True)
            self.profile.start()
        self.began = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.profile is None:
            torch.cuda.synchronize()
            peak: float = torch.cuda.max_memory_allocated()
        else:
            self.profile.stop()
            tensors = {*pl_module.parameters(), *pl_module.buffers()}
            peak = sum(tensor.nbytes for tensor in tensors) + allocated_peak(self.profile)
        seconds = time.perf_counter() - self.began
        self.path.write_text(json.dumps({"peak": peak, "seconds": seconds}))


def save_random_model(backbone: str, folder: Path) -> None:
    """Save a model of a backbone's published size with random weights."""
    configuration = yaml.safe_load(Path(f"experiments/backbones/{backbone}.yaml").read_text())
    empty = backbone_without_weights(configuration["backbone"]["init_args"]["path"])
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(empty.model.config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for pattern in ("*token*", "processor*", "chat_template*"):
        for file in MINIATURE.glob(pattern):
            shutil.copy(file, folder)


class Rehearsal:
    """Runs the commands in a scratch folder."""

    def __init__(self, backbone: str, device: str, scratch: Path) -> None:
        self.backbone, self.device, self.scratch = backbone, device, scratch
        self.world, self.model = scratch / "world", scratch / "model"

    def prepare(self) -> None:
        """Make the world and the model."""
        world = ["--out", str(self.world), "--scenes", "3", "--workers", "1"]
        command = [sys.executable, "-m", "experiments.toyworld", "3d", *world]
        subprocess.run(command, check=True)
        save_random_model(self.backbone, self.model)

    def run(self, command: str, name: str, *options: str) -> tuple[Path, float]:
        """Run ``vlynx align``, ``tune`` or ``eval``; return its folder, and its seconds."""
        run = self.scratch / command
        callbacks: list[dict[str, Any]] = [{"class_path": "experiments.speed.rehearsal.Meter"}]
        callbacks[0]["init_args"] = {"path": str(self.measured(command))}
        if command == "align":
            few = {"max_batches": 1}
            callbacks += [
                {"class_path": f"callbacks.{one}", "init_args": few}
                for one in ("ReferenceGuidance", "AlignmentReport")
            ]
        added = self.scratch / f"{command}.yaml"
        added.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        arguments = [
            *(command, name, f"--backbone={self.backbone}", f"--data={self.world}"),
            *(f"--run={run}", f"--config={added}", f"--backbone.init_args.path={self.model}"),
            *(f"--trainer.accelerator={self.device}", "--data.num_workers=1"),
            *options,
        ]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "vlynx_pl.commands.cli", *arguments], check=True)
        return run, time.perf_counter() - began

    def measured(self, command: str) -> Path:
        """The file of the meter."""
        return self.scratch / f"{command}.json"


def main() -> None:
    """Run the rehearsal and print the table."""
    parser = argparse.ArgumentParser("make rehearse", description=__doc__)
    parser.add_argument("--backbone", default="llava_ov_0.5b")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options = parser.parse_args()
    columns = ("peak, GiB", "plan, GiB", "ratio", "s per step", "TFLOP/s", "s in all")
    table = new_table(f"{options.backbone} with random weights", "", *columns)
    with tempfile.TemporaryDirectory() as scratch:
        rehearsal = Rehearsal(options.backbone, options.device, Path(scratch))
        rehearsal.prepare()
        one_step = ("--trainer.max_steps=1", "--trainer.limit_val_batches=0")
        few = ("--data.batch_size=2", "--model.frame_chunk=1", "--data.reference_frames=1")
        aligned, seconds = rehearsal.run("align", "3d", *one_step, *few)
        table.add_row("align", *compared(rehearsal, aligned, "align"), f"{seconds:.0f}")
        given = (
            f"--annotations={rehearsal.world}",
            f"--aligned={aligned}",
            "--data.frames=1",
            "--data.batch_size=1",
            "--model.checkpointing=true",
            "--model.max_new_tokens=4",
        )
        tuned, seconds = rehearsal.run("tune", "scanqa", *given, *one_step)
        table.add_row("tune", *compared(rehearsal, tuned, "tune"), f"{seconds:.0f}")
        _, seconds = rehearsal.run("eval", "scanqa", *given, f"--tuned={tuned}")
        table.add_row("eval", *5 * ["–"], f"{seconds:.0f}")
    Console().print(table)


def compared(rehearsal: Rehearsal, run: Path, command: str) -> list[str]:
    """Compare a fit's measurements with its plan."""
    found = json.loads(rehearsal.measured(command).read_text())
    tokens = 300 if command == "tune" else None
    plan = make_plan(parsed_run("rehearsal", [f"--config={run / 'config.yaml'}"]), tokens)
    step = plan.fit(1e6)
    return [
        f"{found['peak'] / GIB:.2f}",
        f"{step.peak / GIB:.2f}",
        f"{found['peak'] / step.peak:.0%}",
        f"{found['seconds']:.1f}",
        f"{step.flops / found['seconds'] / 1e12:.3f}",
    ]


if __name__ == "__main__":
    main()
