"""The lines that a batch job's log has of a fit and of a test, and which process writes them."""

import re
import time

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from callbacks import ProgressLines


class Line(LightningModule):
    """y = w x, with a clock that a step moves by 10 s, and a batch of validation by 25 s."""

    def __init__(self, clock) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 10
        loss = (self.weight * batch - batch).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.clock.now += 25
        self.log("val/loss", batch.mean() * 0 + 0.125)

    def test_step(self, batch, batch_idx):
        self.clock.now += 25

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], 0.1)


class Clock:
    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def line(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return Line(clock)


def trainer(**options) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[ProgressLines()],
        **options,
    )


def batches(count: int) -> DataLoader:
    return DataLoader(torch.ones(count, 1))


def said(capsys) -> list[str]:
    """The lines on stderr, without what Lightning says of the machine."""
    wanted = ("Training", "Epoch", "Validation", "Testing")
    return [text for text in capsys.readouterr().err.splitlines() if text.startswith(wanted)]


def test_a_fit_is_told_by_epoch_step_loss_pace_and_time_left(line, capsys):
    trainer(max_epochs=2).fit(line, batches(8), batches(3))
    lines = said(capsys)
    assert [re.sub(r"loss \S+,", "loss …,", text) for text in lines] == [
        "Training begins at step 0 of 16",
        "Epoch 1 of 2, step 3 of 16: train/loss …, 10 s a step, 2 min 10 s left",
        "Epoch 1 of 2, step 6 of 16: train/loss …, 10 s a step, 1 min 40 s left",
        "Validation: 2 of 3, 50 s, 25 s left",
        "Validation: 3 of 3, 1 min 15 s",
        "Epoch 1 of 2 is over, step 8 of 16: train/loss …, val/loss …, 2 min 35 s",
        "Epoch 2 of 2, step 11 of 16: train/loss …, 10 s a step, 1 min 24 s left",
        "Epoch 2 of 2, step 14 of 16: train/loss …, 10 s a step, 31 s left",
        "Validation: 2 of 3, 50 s, 25 s left",
        "Validation: 3 of 3, 1 min 15 s",
        "Epoch 2 of 2 is over, step 16 of 16: train/loss …, val/loss …, 2 min 35 s",
    ]
    assert "train/loss 0.4096," in lines[1]  # 0.8 ** 4, after two steps of 0.1 each
    assert "val/loss 0.125," in lines[5]


def test_lines_go_on_where_a_run_was_resumed(line, capsys, tmp_path):
    first = trainer(max_epochs=1)
    first.fit(line, batches(8))
    first.save_checkpoint(tmp_path / "step.ckpt")
    said(capsys)
    trainer(max_epochs=2).fit(line, batches(8), ckpt_path=str(tmp_path / "step.ckpt"))
    lines = said(capsys)
    assert lines[0] == "Training begins at step 8 of 16"
    assert lines[1].startswith("Epoch 2 of 2, step 11 of 16: ") and "50 s left" in lines[1]


def test_a_test_is_told(line, capsys):
    trainer().test(line, batches(3), verbose=False)
    assert said(capsys) == [
        "Testing begins",
        "Testing: 2 of 3, 50 s, 25 s left",
        "Testing: 3 of 3, 1 min 15 s",
    ]


def test_endless_data_have_no_time_left(line, capsys):
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(torch.ones(4, 1))

    trainer(max_epochs=1).fit(line, DataLoader(Endless()))
    lines = said(capsys)
    assert lines[0] == "Training begins at step 0"
    assert re.fullmatch(r"Epoch 1 of 1, step 3: train/loss \S+, 10 s a step", lines[1])


def test_other_ranks_say_nothing(line, capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    trainer(max_epochs=1).fit(line, batches(8), batches(3))
    trainer().test(line, batches(3), verbose=False)
    assert said(capsys) == []
