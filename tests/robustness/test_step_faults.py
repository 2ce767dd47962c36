"""Faults in a training step: the adapter and the saved checkpoints stay intact."""

import json
import os
import signal
from unittest.mock import Mock, call

import pytest
import torch
from lightning import Callback
from safetensors import safe_open
from torch.distributed import DistBackendError

from callbacks import RunCheckpoint, TrainingFaults
from tests.robustness.in_process import STAGES, Watch, names, session
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted
from vlynx_pl.runs.checkpoints import (
    checkpoint_path,
    newest_checkpoint,
    read_checkpoint,
)

pytestmark = pytest.mark.usefixtures("own_process")
STEP = 1
ESTIMATE = "A step needs 3 GiB"


def run_with(act, world, run, stage="alignment", more=(), **trainer):
    """Run with a checkpoint before every step; ``act`` happens in the second step."""
    watch = act if isinstance(act, Watch) else Watch("in batch 0.1", act)
    session(
        world, run, stage, watch=watch, more=[*more, TrainingFaults(lambda: ESTIMATE)], **trainer
    )


def poison(module):
    last = [p for p in module.parameters() if p.grad is not None][-1]
    last.grad.view(-1)[-1] = float("nan")


@pytest.mark.parametrize("stage", STAGES)
def test_a_nonfinite_gradient_never_reaches_the_adapter(stage, world, tmp_path):
    watch = Watch("in batch 0.1", poison)
    with pytest.raises(UserError, match="gradient of step 1 is not finite") as caught:
        run_with(watch, world, tmp_path, stage)
    saved = read_checkpoint(checkpoint_path(tmp_path, STEP))["state_dict"]
    assert watch.trained.keys() == saved.keys()
    assert all(torch.equal(watch.trained[name], saved[name]) for name in saved)
    assert newest_checkpoint(tmp_path) == (checkpoint_path(tmp_path, STEP), [])

    path = tmp_path / "not-finite-step-1-rank-0.safetensors"
    batch = watch.batches[-1]
    assert str(path) in str(caught.value)
    assert all(name in str(caught.value) for name in names(batch))
    with safe_open(path, "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["clips"]) == names(batch)
    if stage == "alignment":
        assert torch.equal(kept.pop("frames"), batch["frames"])
    else:
        for episode in batch:
            for stream, frames in episode["streams"].items():
                assert torch.equal(kept.pop(f"{episode['name']}.streams.{stream}"), frames)
    assert not kept


def test_accumulated_gradients_name_all_their_clips(world, tmp_path):
    watch = Watch("in batch 1.0", poison)
    with pytest.raises(UserError, match="gradient of step 1 is not finite") as caught:
        run_with(watch, world, tmp_path, accumulate_grad_batches=3)
    in_the_step = [name for batch in watch.batches[3:] for name in names(batch)]
    assert len(in_the_step) == 7
    assert f"it comes from {', '.join(in_the_step)} on this rank" in str(caught.value)


def too_much(module):
    torch.empty(1 << 50, dtype=torch.uint8)


def raising(error):
    def act(module):
        raise error

    return act


ON_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


ALIGNMENT = r"3 clips of 1 frames, \d+ patches at once; lower model.frame_chunk"
TUNING = r"3 clips with \[\d, \d, \d\] questions.*or data.batch_size or data.frames"


@pytest.mark.parametrize(
    ("act", "reason", "stage", "sizes"),
    [
        (too_much, "can't allocate memory", "alignment", ALIGNMENT),
        (too_much, "can't allocate memory", "tuning", TUNING),
        (raising(ON_GPU), r"\(CUDA out of memory.* 2 GiB\)\. The", "tuning", TUNING),
        (raising(MemoryError()), r"\(MemoryError\)\. The", "alignment", ALIGNMENT),
        (
            raising(RuntimeError("could not create a primitive")),
            "a primitive",
            "alignment",
            ALIGNMENT,
        ),
    ],
)
def test_out_of_memory_is_reported_with_sizes_and_remedies(
    stage, sizes, act, reason, world, tmp_path
):
    watch = Watch("in batch 0.1", act)
    with pytest.raises(UserError, match=rf"^out of memory at step 1 .*{reason}.*{sizes}") as caught:
        run_with(watch, world, tmp_path, stage)
    assert f"The batch of {', '.join(names(watch.batches[-1]))} has" in str(caught.value)
    assert str(caught.value).endswith(f". {ESTIMATE}")
    assert caught.value.__cause__ is watch.exception


class TooMuchBefore(Callback):
    def on_train_start(self, trainer, pl_module):
        too_much(pl_module)


def test_out_of_memory_outside_steps_is_one_message_too(world, tmp_path):
    with pytest.raises(UserError, match=r"^out of memory at step 0 .* lower data\.batch_size or"):
        run_with(Watch(), world, tmp_path, more=[TooMuchBefore()])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[a/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: reset by peer"),
        DistBackendError("NCCL error in: a.cpp, remote process exited or there was a network"),
    ],
)
def test_the_loss_of_another_process_is_one_message(error, world, tmp_path, monkeypatch):
    def lose(module):
        monkeypatch.setattr("callbacks.training_faults.world_size", lambda: 2)
        raise error

    with pytest.raises(UserError, match=r"another process of this run has ended .*run the same"):
        run_with(lose, world, tmp_path)


def test_any_other_error_in_a_step_is_left_as_it_is(world, tmp_path):
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        run_with(raising(RuntimeError("shapes differ")), world, tmp_path)


class Early(Callback):
    """Asks the run to stop before its first step, after Lightning has set its own handlers."""

    def on_train_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)
        assert not trainer.received_sigterm, "Lightning's handler, which acts at once"


def test_a_signal_before_the_first_step_does_not_reach_lightning(world, tmp_path):
    watch = Watch()
    before = signal.getsignal(signal.SIGTERM)
    run_with(watch, world, tmp_path, more=[Early()], num_sanity_val_steps=0)
    assert isinstance(watch.exception, Interrupted) and watch.exception.code == 75
    assert "Stopped at step 0" in str(watch.exception)
    assert signal.getsignal(signal.SIGTERM) is before, "put back"


@pytest.mark.parametrize("exception", [Interrupted("asked"), RuntimeError("failed")])
def test_the_launched_processes_are_told_when_the_first_one_stops(exception):
    launcher = Mock()
    trainer = Mock(strategy=Mock(launcher=launcher))
    RunCheckpoint().on_exception(trainer, Mock(), exception)
    told = [call(signal.SIGTERM)] if isinstance(exception, Interrupted) else []
    assert launcher.kill.call_args_list == told
