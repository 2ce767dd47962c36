"""The lines of a fit and of a test in the log of a batch job, and which process writes them."""

import re

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from callbacks import ProgressLines
from tests.conftest import quiet_trainer


class Line(LightningModule):
    """y = w x, with a clock: a training step takes 10 s, and any other batch 25 s."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.now = 500.0

    def training_step(self, batch, batch_idx):
        self.now += 10
        loss = (self.weight * batch - batch).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.now += 25
        self.log("val/loss", batch.mean() * 0 + 0.125)

    def test_step(self, batch, batch_idx):
        self.now += 25

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], 0.1)


@pytest.fixture
def line(monkeypatch):
    module = Line()
    monkeypatch.setattr("tqdm.std.time", lambda: module.now)
    return module


def trainer(**options):
    return quiet_trainer(None, ProgressLines(), enable_progress_bar=True, **options)


def batches(count: int) -> DataLoader:
    return DataLoader(torch.ones(count, 1))


def said(capsys) -> list[str]:
    """The lines on stderr, without Lightning's remarks about the machine."""
    wanted = ("Training", "Epoch", "Validation", "Testing")
    return [text for text in capsys.readouterr().err.splitlines() if text.startswith(wanted)]


def test_a_fit_is_logged_by_step_time_left_epoch_and_metrics(line, capsys):
    trainer(max_epochs=2).fit(line, batches(8), batches(3))
    lines = said(capsys)
    varying = r"(?<=loss )[^,]+|\S+(?= left)"
    assert [re.sub(varying, "…", text) for text in lines] == [
        "Training: 0 of 16, 00:00",
        "Training: 3 of 16, 00:30, … left, epoch 1 of 2, train/loss …",
        "Training: 6 of 16, 01:00, … left, epoch 1 of 2, train/loss …",
        "Validation: 2 of 3, 00:50",
        "Validation: 3 of 3, 01:15",
        "Epoch 1 of 2 is over at step 8, train/loss …, val/loss …",
        "Training: 9 of 16, 02:45, … left, epoch 2 of 2, train/loss …",
        "Training: 12 of 16, 03:15, … left, epoch 2 of 2, train/loss …",
        "Training: 15 of 16, 03:45, … left, epoch 2 of 2, train/loss …",
        "Validation: 2 of 3, 00:50",
        "Validation: 3 of 3, 01:15",
        "Epoch 2 of 2 is over at step 16, train/loss …, val/loss …",
        "Training: 16 of 16, 05:10, epoch 2 of 2, train/loss …",
    ]
    assert "train/loss 0.4096" in lines[1]  # 0.8 ** 4, after two steps of 0.1 each
    assert "val/loss 0.125" in lines[5]


def test_a_resumed_run_counts_on(line, capsys, tmp_path):
    first = trainer(max_epochs=1)
    first.fit(line, batches(8))
    first.save_checkpoint(tmp_path / "step.ckpt")
    said(capsys)
    trainer(max_epochs=2).fit(line, batches(8), ckpt_path=str(tmp_path / "step.ckpt"))
    lines = said(capsys)
    assert lines[0] == "Training: 8 of 16, 00:00"
    assert lines[2].startswith("Training: 14 of 16, 01:00, 00:20 left, ")


def test_a_test_is_logged(line, capsys):
    trainer().test(line, batches(6), verbose=False)
    assert said(capsys) == [
        "Testing: 0 of 6, 00:00",
        "Testing: 2 of 6, 00:50",
        "Testing: 4 of 6, 01:40, 00:50 left",
        "Testing: 6 of 6, 02:30",
    ]


def test_data_of_unknown_length_have_no_time_left(line, capsys):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(torch.ones(7, 1))

    trainer(max_epochs=1).fit(line, DataLoader(Endless()))
    lines = said(capsys)
    assert lines[0] == "Training: 0 of ?, 00:00"
    assert re.fullmatch(r"Training: 6 of \?, 01:00, epoch 1 of 1, train/loss \S+", lines[2])


def test_other_ranks_write_nothing(line, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    trainer(max_epochs=1).fit(line, batches(8), batches(3))
    trainer().test(line, batches(3), verbose=False)
    assert said(capsys) == []


def test_a_fit_that_fails_says_how_far_it_was_before_the_error_is_shown(line, capsys):
    def fail(*_):
        raise ValueError("planted")

    line.on_validation_batch_start = fail
    failing = trainer(max_epochs=1)
    with pytest.raises(ValueError, match="planted"):
        failing.fit(line, batches(2), batches(1))
    (first, last) = said(capsys)
    assert first == "Training: 0 of 2, 00:00"
    assert last.startswith("Training: 2 of 2, 00:20, epoch 1 of 1, train/loss ")


def test_a_silent_rank_does_not_ask_for_its_metrics(line, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    monkeypatch.setattr(Trainer, "progress_bar_metrics", property(lambda self: 1 / 0))
    trainer(max_epochs=1).fit(line, batches(2))
