"""Align, tune and evaluate a model of the real size with random weights, and compare with the plan.

The command lines are the real ones, on three small scenes of the toy world and with few frames. Run
it first on a new GPU. On a CPU without bfloat16 arithmetic, bfloat16 takes six times as long as
float32, so the rehearsal is in float32 there, and so is its plan.
"""

import argparse
import json
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
from transformers import AutoConfig, AutoModelForImageTextToText
from typing_extensions import override

from experiments.speed.bench import allocated_peak, new_table
from vlynx_pl.backbones import backbone_without_weights
from vlynx_pl.backbones.tiny import TINY
from vlynx_pl.commands.plan.making import make_plan, parsed_run
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.tuning import InstructionTuning

BACKBONES = Path("experiments/backbones")
GIB = 2**30
PRECISION = {"bfloat16": "bf16-mixed", "float32": "32-true"}


class Meter(Callback):
    """Writes what the last training step needed into a file.

    That is the peak of memory, the seconds, and in tuning the tokens of its questions. The memory
    is that of tensors, as the allocator counts it, and not that of the process.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.began = 0.0
        self.held = 0  # bytes of the tensors that exist between two steps
        self.profile: torch.profiler.profile | None = None

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        else:
            self.held = held_bytes(trainer, pl_module)
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
            peak = self.held + allocated_peak(self.profile)
        seconds = time.perf_counter() - self.began
        found = {"peak": peak, "seconds": seconds, "tokens": question_tokens(pl_module, batch)}
        self.path.write_text(json.dumps(found))


def held_bytes(trainer: Trainer, module: LightningModule) -> int:
    """Return the bytes of a module, of its gradients, and of the state of its optimizers."""
    tensors = {*module.parameters(), *module.buffers()}
    tensors |= {p.grad for p in module.parameters() if p.grad is not None}
    for optimizer in trainer.optimizers:
        tensors |= {tensor for state in optimizer.state.values() for tensor in state.values()}
    return sum(tensor.nbytes for tensor in tensors)


def question_tokens(module: LightningModule, batch: Any) -> int | None:
    """Return the tokens of the questions and answers in a batch; None in alignment."""
    if not isinstance(module, InstructionTuning):
        return None
    questions = (question for episode in batch for question in episode["questions"])
    reads = module.backbone.tokenizer, module.backbone.chat
    return sum(len(question_branch(*reads, one, learnt=True).ids) for one in questions)


def usual_dtype(device: str) -> str:
    """Return the dtype of a rehearsal: bfloat16, or float32 on a CPU without its arithmetic."""
    features = torch.cpu.get_capabilities().items()
    able = device == "cuda" or any(here for name, here in features if "bf16" in name)
    return "bfloat16" if able else "float32"


def save_random_model(backbone: str, folder: Path) -> None:
    """Save a model of a backbone's published size with random weights.

    Its processor is that of its family's tiny model, in which every byte is a token.
    """
    configuration = yaml.safe_load((BACKBONES / f"{backbone}.yaml").read_text())
    empty = backbone_without_weights(configuration["backbone"]["init_args"]["path"])
    # A copy, because the backbone has put its own attention into its configuration.
    config = AutoConfig.for_model(**empty.model.config.to_dict())
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    _, processor = TINY[model.config.model_type]()
    processor.save_pretrained(folder)


def run_module(module: str, *arguments: str) -> None:
    """Run a module; its output goes to stderr, so that stdout has the results only."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=sys.stderr, check=False
    )
    if done.returncode:
        sys.exit(f"{module} {arguments[0]} failed with exit code {done.returncode}, see above")


class Rehearsal:
    """Runs the commands in a scratch folder."""

    def __init__(self, backbone: str, device: str, dtype: str, scratch: Path) -> None:
        self.backbone, self.device, self.dtype, self.scratch = backbone, device, dtype, scratch
        self.world, self.model = scratch / "world", scratch / "model"

    def prepare(self) -> None:
        """Make the world and the model."""
        world = ["--out", str(self.world), "--scenes", "3", "--workers", "1"]
        run_module("experiments.toyworld", "3d", *world)
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
        else:
            without = {"probe": False}  # which would ask all questions again
            callbacks.append({"class_path": "callbacks.AnswerScores", "init_args": without})
        added = self.scratch / f"{command}.yaml"
        added.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        arguments = [
            *(command, name, f"--backbone={self.backbone}", f"--data={self.world}"),
            *(f"--run={run}", f"--config={added}", f"--backbone.init_args.path={self.model}"),
            *(f"--trainer.accelerator={self.device}", "--data.num_workers=1"),
            f"--backbone.init_args.dtype={self.dtype}",
            f"--trainer.precision={PRECISION[self.dtype]}",
            *options,
        ]
        began = time.perf_counter()
        run_module("vlynx_pl.commands.cli", *arguments)
        return run, time.perf_counter() - began

    def measured(self, command: str) -> Path:
        """The file of the meter."""
        return self.scratch / f"{command}.json"


def main() -> None:
    """Run the rehearsal and print the table."""
    parser = argparse.ArgumentParser("make rehearse", description=__doc__)
    known = sorted(file.stem for file in BACKBONES.glob("*.yaml"))
    parser.add_argument("--backbone", choices=known, default="llava_ov_0.5b")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=device)
    parser.add_argument("--dtype", choices=PRECISION, help="default: float32 on CPUs without bf16")
    options = parser.parse_args()
    dtype = options.dtype or usual_dtype(options.device)
    why = "" if dtype == "bfloat16" or options.dtype else ": this CPU has no bfloat16 arithmetic"
    print(f"Weights in {dtype}, training in {PRECISION[dtype]}{why} (--dtype)", flush=True)
    columns = ("peak, GiB", "plan, GiB", "ratio", "s per step", "TFLOP", "TFLOP/s", "s in all")
    table = new_table(f"{options.backbone} with random weights in {dtype}", "", *columns)
    table.caption = "The ratio should be between 0.8 and 1.2. TFLOP are the plan's, of a step."
    with tempfile.TemporaryDirectory() as scratch:
        rehearsal = Rehearsal(options.backbone, options.device, dtype, Path(scratch))
        rehearsal.prepare()
        # AdamW's moments exist from the second step on.
        steps = ("--trainer.max_epochs=2", "--trainer.max_steps=2", "--trainer.limit_val_batches=0")
        few = ("--data.batch_size=2", "--model.frame_chunk=1", "--data.reference_frames=1")
        aligned, seconds = rehearsal.run("align", "3d", *steps, *few)
        table.add_row("align", *compared(rehearsal, aligned, "align"), f"{seconds:.0f}")
        given = (
            f"--annotations={rehearsal.world}",
            f"--aligned={aligned}",
            "--data.frames=1",
            "--data.batch_size=1",
            "--model.checkpointing=true",
            "--model.max_new_tokens=4",
        )
        tuned, seconds = rehearsal.run("tune", "scanqa", *given, *steps)
        table.add_row("tune", *compared(rehearsal, tuned, "tune"), f"{seconds:.0f}")
        _, seconds = rehearsal.run("eval", "scanqa", *given, f"--tuned={tuned}")
        table.add_row("eval", *6 * ["–"], f"{seconds:.0f}")
    Console().print(table)


def compared(rehearsal: Rehearsal, run: Path, command: str) -> list[str]:
    """Compare a fit's measurements with its plan."""
    found = json.loads(rehearsal.measured(command).read_text())
    settings = parsed_run("rehearsal", [f"--config={run / 'config.yaml'}"])
    plan = make_plan(settings, found["tokens"])
    step = plan.fit(1e6)
    return [
        f"{found['peak'] / GIB:.3g}",
        f"{step.peak / GIB:.3g}",
        f"{found['peak'] / step.peak:.2f}",
        f"{found['seconds']:.1f}",
        f"{step.flops / 1e12:.3g}",
        f"{step.flops / found['seconds'] / 1e12:.3g}",
    ]


if __name__ == "__main__":
    main()
