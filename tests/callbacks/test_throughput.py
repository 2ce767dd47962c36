"""Throughput: which time counts, totals over ranks, and the share of a GPU's peak."""

import csv
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from callbacks import Throughput
from callbacks import throughput as own
from tests.conftest import quiet_trainer
from tests.processes import meet, together
from tests.vlynx_pl.conftest import episode, load_miniature, tuning
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.flops import LinearFlops
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.runs.metrics_log import MetricsLog
from vlynx_pl.streams import AlignedStreams

TOKENS = 16  # per frame of the miniature


class Timed(InterfaceAlignment):
    """With a clock: the first step takes 100 s, others 8 s; a validation or checkpoint 1000 s."""

    now = 500.0

    def training_step(self, batch, batch_idx):
        self.now += 100.0 if self.global_step == 0 else 8.0
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.now += 1000.0

    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        self.now += 1000.0


class Clips(list):
    """Batches of two clips; reading one takes 2 s."""

    def __getitem__(self, index):
        Clips.module.now += 2.0
        return super().__getitem__(index)


@pytest.fixture
def module(backbone, videos, monkeypatch):
    module = Timed(backbone, "3d", lora=Lora(2, 4))
    module.use_guidance(estimate_guidance(backbone, [videos]))
    Clips.module = module
    monkeypatch.setattr(own, "perf_counter", lambda: module.now)
    return module


def batches(videos, count):
    return DataLoader(Clips([{"frames": videos, "clips": ["a", "b"]}] * count), batch_size=None)


def fit(run, module, *loaders, **options):
    log = MetricsLog(run)
    trainer = quiet_trainer(run, Throughput(), logger=log, log_every_n_steps=2, **options)
    trainer.fit(module, *loaders)
    log.save()
    return trainer


def logged(run):
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/total"]]
    return [
        {
            name: float(row.get(f"train/{name}") or "nan")
            for name in ("clips_per_s", "visual_tokens_per_s", "mfu")
        }
        for row in rows
    ]


def test_loading_counts_and_the_first_step_does_not(module, videos, tmp_path):
    trainer = fit(tmp_path, module, batches(videos, 6), max_epochs=1)
    rows = logged(tmp_path)
    assert len(rows) == 3
    for row in rows[1:]:  # the first is of one step, without the wait for its data
        assert row["clips_per_s"] == pytest.approx(2 / 10)
        assert row["visual_tokens_per_s"] == pytest.approx(2 / 10 * 3 * TOKENS)
    assert rows[0]["clips_per_s"] == pytest.approx(2 / 8)
    assert trainer.progress_bar_metrics["train/clips_per_s"] == pytest.approx(2 / 10)
    assert not any("mfu" in name for name in trainer.progress_bar_metrics), "the CPU's is unknown"


def test_validation_and_checkpoints_do_not_count(module, videos, tmp_path):
    class Saved(Throughput):
        """A checkpoint is saved before this callback's end of a batch, and after its start."""

        def on_train_batch_end(self, trainer, *arguments):
            super().on_train_batch_end(trainer, *arguments)
            trainer.save_checkpoint(tmp_path / "now.ckpt")

    quiet = quiet_trainer(
        tmp_path,
        Saved(),
        logger=MetricsLog(tmp_path),
        log_every_n_steps=2,
        max_epochs=3,
        val_check_interval=1,
    )
    quiet.fit(module, batches(videos, 2), batches(videos, 1))
    assert quiet.callback_metrics["train/clips_per_s"] == pytest.approx(2 / 8)


def test_the_share_of_a_peak_counts_the_operations_of_a_batch(
    module, videos, tmp_path, monkeypatch
):
    counter = LinearFlops(module)
    module.losses(videos)
    counter.stop()
    monkeypatch.setattr(own, "peak_flops", lambda device: 1e9)
    trainer = fit(tmp_path, module, batches(videos, 4), max_epochs=1)
    share = counter.total / 10 / 1e9
    assert trainer.progress_bar_metrics["train/mfu"] == pytest.approx(share)


@pytest.mark.parametrize(
    "streams",
    [
        AlignedStreams(
            {"3d": "base", "audio": "base"}, keep={"audio": 1}, reduce={"audio": "pool"}
        ),
        PatchedVideo("3d", hidden=8, heads=2),
    ],
)
def test_visual_tokens_are_those_that_the_llm_reads(streams, backbone, videos):
    module = tuning(streams, backbone)
    asked = episode(videos, "3d", "audio")
    asked["streams"]["3d"] = videos.flatten(0, 1)  # two frames for each timestamp
    read = sum(len(stream.rows) for stream in module.encode(asked))
    assert module.batch_size([asked, asked]) == (2, 2 * read)


def rank(rank, ranks, folder):
    meet(rank, ranks, f"{folder}/meeting")
    backbone = load_miniature()
    generator = torch.Generator().manual_seed(0)
    videos = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    module = Timed(backbone, "3d", lora=Lora(2, 4))
    module.use_guidance(estimate_guidance(backbone, [videos]))
    own.perf_counter = lambda: module.now
    own.peak_flops = lambda device: 1e9
    Clips.module = module
    part = videos[rank:] if rank else videos  # two clips on the first rank, one on the second
    loader = DataLoader(Clips([{"frames": part, "clips": ["a"] * len(part)}] * 4), batch_size=None)
    options = {"devices": ranks, "strategy": "ddp", "use_distributed_sampler": False}
    trainer = fit(Path(folder, str(rank)), module, loader, max_epochs=1, **options)
    metrics = trainer.progress_bar_metrics
    assert metrics["train/clips_per_s"] == pytest.approx(3 / 10)
    assert metrics["train/visual_tokens_per_s"] == pytest.approx(3 * 3 * TOKENS / 10)


def test_ranks_are_counted_together(tmp_path):
    assert together(rank, 2, 2, str(tmp_path)) == [0, 0]
