"""An epoch of tuning that decodes and encodes, against one that reads stored tokens.

The toy world is generated into a temporary folder.
"""

import logging
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import track
from typing_extensions import override

from callbacks import KeepTokens
from datamodules import AudioDataModule, DepthDataModule, HighFrameRateDataModule
from datamodules.base import ModalityDataModule
from datamodules.benchmarks import LLaVAVideo, MusicAVQA, ScanQA
from experiments.speed.bench import new_table, parse_options
from experiments.toyworld import generate_toyworld
from vlynx_pl.adapters import Lora
from vlynx_pl.backbones import load_backbone
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning


class Clock(Callback):
    """Measures the seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def data_of(world: str, root: Path, **settings: Any) -> ModalityDataModule:
    """Return the data module of a toy world."""
    match world:
        case "3d":
            return DepthDataModule(root, benchmark=ScanQA(root), **settings)
        case "audio":
            music = MusicAVQA(root / "music_avqa", videos="flat")
            return AudioDataModule(root, benchmark=music, **settings)
    video = LLaVAVideo(root / "llava_video", 2, ["*_qa_processed.json"])
    return HighFrameRateDataModule(root, benchmark=video, **settings)


def cells(world: str, root: Path, folder: Path, repeats: int) -> list[str]:
    """Tune for some epochs, of which only the first reads and encodes clips."""
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
    module = InstructionTuning(
        backbone, "task", AlignedStreams({data.modalities[0].name: "base"}), lora=Lora(16, 16)
    )
    data.setup("fit")
    plain_tokens = seconds_of_tokens(data, module)
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
    ).fit(module, datamodule=data)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    kept_tokens = seconds_of_tokens(data, module)
    first, *others = clock.seconds
    seconds = [f"{first:.1f}", f"{min(others):.1f}", f"{first / min(others):.1f}", "3"]
    return [world, *seconds, f"{plain_tokens / kept_tokens:.0f}", f"{size / 1e6:.1f}"]


@torch.inference_mode()
def seconds_of_tokens(data: ModalityDataModule, module: InstructionTuning) -> float:
    """Measure how long the tokens of all training clips take, once the loader has started."""
    batches = iter(data.train_dataloader())
    start = time.perf_counter()
    for batch in batches:
        for episode in batch:
            module.encode(episode)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    options = parse_options(__doc__, clips=60, repeats=2)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    title = f"an epoch of tuning the miniature on {options.clips} toy clips"
    columns = ("world", "first, s", "others, s", "ratio", "at least", "tokens alone", "store, MB")
    table = new_table(title, *columns)
    with TemporaryDirectory() as scratch:
        for world in track(("3d", "audio", "highfps"), "Tuning", transient=True):
            root = Path(scratch) / world
            generate_toyworld(root, world, scenes=options.clips, seed=0, workers=2)
            kept = Path(scratch) / "tokens" / world
            table.add_row(*cells(world, root, kept, options.repeats))
    Console().print(table)


if __name__ == "__main__":
    main()
