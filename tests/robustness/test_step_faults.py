"""Faults within a run: nothing bad reaches the adapter, and what was saved stays whole."""

import json
import os
import resource
import signal
from unittest.mock import Mock, call

import pytest
import torch
from lightning import Callback
from safetensors import safe_open
from torch.distributed import DistBackendError

from callbacks import RunCheckpoint, TrainingFaults
from tests.robustness.in_process import STAGES, Watch, ask, names, session
from tests.robustness.same_run import differences
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted
from vlynx_pl.runs.checkpoints import (
    checkpoint_path,
    checkpoints,
    newest_checkpoint,
    read_checkpoint,
)

pytestmark = pytest.mark.usefixtures("own_process")
STEP = 1


def run_with(act, world, run, stage="alignment", more=(), **trainer):
    """A run that saves before every step, and something happens in its second one."""
    watch = act if isinstance(act, Watch) else Watch("in batch 0.1", act)
    session(world, run, stage, watch=watch, more=[*more, TrainingFaults()], **trainer)


def poison(module):
    last = [p for p in module.parameters() if p.grad is not None][-1]
    last.grad.view(-1)[-1] = float("nan")


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_never_reaches_the_adapter(stage, world, tmp_path):
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
            for stream, pictures in episode["streams"].items():
                assert torch.equal(kept.pop(f"{episode['name']}.streams.{stream}"), pictures)
    assert not kept


def test_a_sum_of_gradients_names_all_its_clips(world, tmp_path):
    watch = Watch("in batch 1.0", poison)
    with pytest.raises(UserError, match="gradient of step 1 is not finite") as caught:
        run_with(watch, world, tmp_path, accumulate_grad_batches=3)
    in_the_step = [name for batch in watch.batches[3:] for name in names(batch)]
    assert len(in_the_step) == 7
    assert f"it is of {', '.join(in_the_step)} on this rank" in str(caught.value)


def too_much(module):
    torch.empty(1 << 50, dtype=torch.uint8)


def too_much_for_a_gpu(module):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


def too_much_for_python(module):
    raise MemoryError


def too_much_for_a_convolution(module):
    raise RuntimeError("could not create a primitive")


ALIGNMENT = r"3 clips of 1 frames, \d+ patches at once; lower data.batch_size"
TUNING = r"3 clips with \[\d, \d, \d\] questions.*or data.batch_size or data.frames"


@pytest.mark.parametrize(
    ("act", "reason", "stage", "sizes"),
    [
        (too_much, "can't allocate memory", "alignment", ALIGNMENT),
        (too_much, "can't allocate memory", "tuning", TUNING),
        (
            too_much_for_a_gpu,
            r"\(CUDA out of memory. Tried to allocate 2 GiB\)\. The",
            "tuning",
            TUNING,
        ),
        (too_much_for_python, r"\(MemoryError\)\. The", "alignment", ALIGNMENT),
        (
            too_much_for_a_convolution,
            r"\(could not create a primitive\)\. The",
            "alignment",
            ALIGNMENT,
        ),
    ],
)
def test_a_lack_of_memory_is_told_with_sizes_and_remedies(
    stage, sizes, act, reason, world, tmp_path
):
    watch = Watch("in batch 0.1", act)
    with pytest.raises(UserError, match=rf"^out of memory at step 1 .*{reason}.*{sizes}") as caught:
        run_with(watch, world, tmp_path, stage)
    assert f"The batch of {', '.join(names(watch.batches[-1]))} has" in str(caught.value)
    assert caught.value.__cause__ is watch.exception


class TooMuchBefore(Callback):
    def on_train_start(self, trainer, pl_module):
        too_much(pl_module)


def test_a_lack_of_memory_outside_steps_is_one_message_too(world, tmp_path):
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


def test_a_mistake_in_a_step_stays_what_it_is(world, tmp_path):
    def mistake(module):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        run_with(mistake, world, tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before_whole(undisturbed, world, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(module):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    try:
        with pytest.raises(
            OSError, match=r"step-00000002.ckpt could not .*\(File too large\); free"
        ):
            run_with(fill, world, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000000.ckpt", "step-00000001.ckpt"]
    run_with(Watch(), world, tmp_path)
    assert not differences(tmp_path, undisturbed("alignment"))


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("alignment", signal.SIGINT, 130),
        ("alignment", signal.SIGTERM, 75),
        ("tuning", signal.SIGUSR1, 75),
    ],
)
def test_a_signal_lets_the_step_end_and_saves_it(stage, number, code, world, tmp_path):
    watch = Watch("in batch 0.1", ask(number))
    run_with(watch, world, tmp_path, stage)
    assert isinstance(watch.exception, Interrupted)
    assert watch.exception.code == code
    assert f"Stopped at step 2, as asked; all of it is in {tmp_path}" in str(watch.exception)
    saved = read_checkpoint(checkpoint_path(tmp_path, STEP + 1))["state_dict"]
    assert all(torch.equal(watch.trained[name], saved[name]) for name in saved)


class Early(Callback):
    """Asks a run to stop before its first step, when Lightning has set handlers of its own."""

    def on_train_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)
        assert not trainer.received_sigterm, "Lightning's handler, which acts at once"


def test_a_signal_before_the_first_step_is_not_lightnings(world, tmp_path):
    watch = Watch()
    before = signal.getsignal(signal.SIGTERM)
    run_with(watch, world, tmp_path, more=[Early()], num_sanity_val_steps=0)
    assert isinstance(watch.exception, Interrupted) and watch.exception.code == 75
    assert "Stopped at step 0" in str(watch.exception)
    assert signal.getsignal(signal.SIGTERM) is before, "put back"


@pytest.mark.parametrize("exception", [Interrupted("asked"), RuntimeError("failed")])
def test_processes_that_were_started_hear_that_the_first_one_stops(exception):
    launcher = Mock()
    trainer = Mock(strategy=Mock(launcher=launcher))
    RunCheckpoint().on_exception(trainer, Mock(), exception)
    heard = [call(signal.SIGTERM)] if isinstance(exception, Interrupted) else []
    assert launcher.kill.call_args_list == heard


def test_no_checkpoint_at_all_is_not_kept():
    with pytest.raises(UserError, match=r"checkpoint\.keep=0 would remove"):
        RunCheckpoint(keep=0)


def test_a_second_ctrl_c_ends_at_once(world, tmp_path):
    watch = Watch("in batch 0.1", ask(signal.SIGINT, signal.SIGINT))
    run_with(watch, world, tmp_path)
    assert isinstance(watch.exception, Interrupted)
    assert watch.exception.code == 130
    assert "Ended at once" in str(watch.exception)
    assert checkpoints(tmp_path)[0] == checkpoint_path(tmp_path, STEP)
