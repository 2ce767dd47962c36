"""An epoch of tuning that decodes and encodes, against one that finds the tokens kept.

``python -m experiments.speed.token_store``; the toy world is generated into a temporary folder.
"""

import argparse
import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from typing_extensions import override

from callbacks import KeepTokens
from datamodules import AudioDataModule, DepthDataModule, HighFrameRateDataModule
from datamodules.base import ModalityDataModule
from datamodules.benchmarks import LLaVAVideo, MusicAVQA, ScanQA
from datamodules.toyworld import generate_toyworld
from vlynx_pl.backbones import load_backbone
from vlynx_pl.tuning import InstructionTuning


class Clock(Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def data_of(world: str, root: Path, **settings: Any) -> ModalityDataModule:
    """Episodes of a toy world."""
    match world:
        case "3d":
            return DepthDataModule(root, benchmark=ScanQA(root), **settings)
        case "audio":
            music = MusicAVQA(root / "music_avqa", videos="flat")
            return AudioDataModule(root, benchmark=music, **settings)
    video = LLaVAVideo(root / "llava_video", 2, ["*_qa_processed.json"])
    return HighFrameRateDataModule(root, benchmark=video, **settings)


def epochs(world: str, root: Path, folder: Path, repeats: int) -> tuple[float, float, int]:
    """Seconds of the first epoch, of the fastest other one, and bytes of the store."""
    backbone = load_backbone("experiments/miniature", "float32")
    data = data_of(
        world,
        root,
        objective="tuning",
        frames=4,
        frame_size=backbone.frame_size,
        batch_size=8,
        num_workers=1,
    )
    clock = Clock()
    Trainer(
        accelerator="cpu",
        max_epochs=1 + repeats,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[KeepTokens(folder), clock],
    ).fit(InstructionTuning(backbone, "task", {data.modalities[0]: None}, rank=16), datamodule=data)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    return clock.seconds[0], min(clock.seconds[1:]), size


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2, help="epochs after the first")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    table = Table(title=f"an epoch of tuning the miniature on {options.clips} toy clips")
    for column in ("world", "first, s", "with the store, s", "ratio", "store, MB"):
        table.add_column(column, justify="left" if column == "world" else "right")
    with TemporaryDirectory() as scratch:
        for world in track(("3d", "audio", "highfps"), "Tuning", transient=True):
            root = Path(scratch) / world
            generate_toyworld(root, world, scenes=options.clips, seed=0, workers=2)
            first, other, size = epochs(
                world, root, Path(scratch) / "tokens" / world, options.repeats
            )
            figures = (f"{first:.1f}", f"{other:.1f}", f"{first / other:.1f}", f"{size / 1e6:.1f}")
            table.add_row(world, *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
