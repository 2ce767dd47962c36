"""Runs that stop at a place, in this process or one process per rank, without the command line."""

import json
import os
import signal
import tempfile
from pathlib import Path

import torch
from lightning import Trainer
from safetensors.torch import save_file

from callbacks import ReferenceGuidance, RunCheckpoint, UsualTokens
from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from tests.conftest import MINIATURE
from tests.processes import meet, together
from tests.robustness.places import Places
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.io.interruption import Interrupted, forget_signals
from vlynx_pl.objectives import AlignmentObjective
from vlynx_pl.runs.checkpoints import newest_checkpoint
from vlynx_pl.runs.metrics_log import MetricsLog
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

STAGES = ("alignment", "tuning")


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved afterwards."""


def die(module):
    raise Killed


def ask_to_stop(module):
    os.kill(os.getpid(), signal.SIGUSR1)


class Watch(Places):
    """Acts at one place, and records the batches and how the run ended.

    Args:
        place: where to act. Within a batch the run is asked to stop; elsewhere it is killed.
        act: what to do instead, with the module.
    """

    def __init__(self, place="", act=None) -> None:
        self.place = place
        self.act = act or (ask_to_stop if place.startswith("in batch") else die)
        self.exception = self.trained = None
        self.batches = []

    def at(self, place, trainer):
        if place == self.place:
            self.place = ""
            self.act(trainer.lightning_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seen = Path(trainer.default_root_dir, f"seen-{trainer.global_rank}.jsonl")
        with seen.open("a") as file:
            file.write(json.dumps([trainer.current_epoch, batch_idx, rate, names(batch)]) + "\n")
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_exception(self, trainer, pl_module, exception):
        self.exception, self.trained = exception, trained(pl_module)


def names(batch):
    return batch["clips"] if isinstance(batch, dict) else [each["name"] for each in batch]


def trained(module):
    named = module.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


def session(
    data,
    run,
    stage,
    place="",
    *,
    watch=None,
    more=(),
    workers=0,
    minutes=0.0,
    dropout=0.1,
    losses=(),
    keep=(),
    model=MINIATURE,
    **trainer,
):
    """Do in this process what one command would do."""
    forget_signals()
    torch.manual_seed(0)
    run.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(str(model), "float32")
    sizes = {"lora": Lora(2, 4, dropout), "learning_rate": 1e-3, "warmup": 0.2}
    if stage == "alignment":
        module = InterfaceAlignment(backbone, "3d", AlignmentObjective(**dict(losses)), **sizes)
        own = [ReferenceGuidance(max_batches=2)]
    else:
        streams = AlignedStreams({"3d": "base"}, keep=dict(keep))
        module = InstructionTuning(backbone, "scanqa", streams, **sizes)
        own = [UsualTokens()]
    module_data = DepthDataModule(
        data,
        benchmark=ScanQA(data),
        objective=stage,
        frames=1,
        frame_size=backbone.frame_size,
        batch_size=3,
        num_workers=workers,
    )
    trainer = Trainer(
        **{
            "default_root_dir": run,
            "max_epochs": 3,
            "accelerator": "cpu",
            "logger": MetricsLog(run),
            "log_every_n_steps": 1,
            "callbacks": [*own, watch or Watch(place), *more, RunCheckpoint(minutes)],
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            **trainer,
        }
    )
    begun_with, _ = newest_checkpoint(run)
    try:
        trainer.fit(module, module_data, ckpt_path=begun_with, weights_only=True)
    except (Killed, Interrupted):
        return
    if trainer.is_global_zero:
        save_file(trained(module), run / "trained.safetensors")


def sessions(ranks, *arguments, **options):
    """Run a session with one process per rank."""
    if ranks == 1:
        session(*arguments, **options)
        return
    with tempfile.TemporaryDirectory() as folder:
        assert together(_rank, ranks, ranks, folder, arguments, options) == [0] * ranks


def _rank(rank, ranks, folder, arguments, options):
    os.fsync = lambda descriptor: None
    meet(rank, ranks, f"{folder}/meeting")
    session(*arguments, **options, devices=ranks, strategy="ddp")
