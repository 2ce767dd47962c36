"""Faults of a run: nothing bad reaches the adapter, and what was saved stays whole."""

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

from callbacks import ReferenceGuidance, RunCheckpoint, TrainingFaults
from tests import test_resume
from tests.test_resume import STAGES, Watch, assert_same, session
from vlynx_pl.checkpoints import checkpoint_path, checkpoints, newest_checkpoint, read_checkpoint
from vlynx_pl.errors import UserError
from vlynx_pl.interruption import Interrupted, forget_signals

data, undisturbed = test_resume.data, test_resume.undisturbed
hasty_disk = test_resume.hasty_disk
STEP = 1


@pytest.fixture(autouse=True)
def own_signals():
    """Lightning and the run set handlers, which no other test should have."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    forget_signals()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Fault(Callback):
    """Does something within a step, and keeps what the run was when it ended."""

    def __init__(self, befall) -> None:
        self.befall = befall
        self.exception = self.trained = self.batch = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batch = batch

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == STEP:
            self.befall(pl_module)

    def on_exception(self, trainer, pl_module, exception):
        self.exception = exception
        named = pl_module.named_parameters()
        self.trained = {name: p.detach().clone() for name, p in named if p.requires_grad}


def run_with(fault, data, run, stage="alignment", more=(), **trainer) -> None:
    """A run that saves before every step, and is befallen in its second one."""
    own = [ReferenceGuidance(max_batches=2)] if stage == "alignment" else []
    others = [Watch(run, ()), *more, fault, TrainingFaults(), RunCheckpoint(0)]
    session(data, run, stage, callbacks=[*own, *others], **trainer)


def names(batch) -> list[str]:
    return batch["clips"] if isinstance(batch, dict) else [each["name"] for each in batch]


def poison(module) -> None:
    last = [p for p in module.parameters() if p.grad is not None][-1]
    last.grad.view(-1)[-1] = float("nan")


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_not_finite_never_reaches_the_adapter(stage, data, tmp_path):
    fault = Fault(poison)
    with pytest.raises(UserError, match="gradient of step 1 is not finite") as caught:
        run_with(fault, data, tmp_path, stage)
    saved = read_checkpoint(checkpoint_path(tmp_path, STEP))["state_dict"]
    assert fault.trained.keys() == saved.keys()
    assert all(torch.equal(fault.trained[name], saved[name]) for name in saved)
    assert newest_checkpoint(tmp_path) == (checkpoint_path(tmp_path, STEP), [])

    path = tmp_path / "not-finite-step-1-rank-0.safetensors"
    assert str(path) in str(caught.value)
    assert all(name in str(caught.value) for name in names(fault.batch))
    with safe_open(path, "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["clips"]) == names(fault.batch)
    if stage == "alignment":
        assert torch.equal(kept.pop("frames"), fault.batch["frames"])
    else:
        for episode in fault.batch:
            for stream, pictures in episode["streams"].items():
                assert torch.equal(kept.pop(f"{episode['name']}.streams.{stream}"), pictures)
    assert not kept


def test_a_sum_of_gradients_names_all_its_clips(data, tmp_path):
    batches = Seen()
    with pytest.raises(UserError, match="gradient of step 1 is not finite") as caught:
        run_with(Fault(poison), data, tmp_path, more=[batches], accumulate_grad_batches=3)
    in_the_step = [name for clips in batches.seen[3:] for name in clips]
    assert len(in_the_step) == 7
    assert f"it is of {', '.join(in_the_step)} on this rank" in str(caught.value)


class Seen(Callback):
    def __init__(self) -> None:
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(names(batch))


def too_much(module) -> None:
    torch.empty(1 << 50, dtype=torch.uint8)


def too_much_for_a_gpu(module) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


def too_much_for_python(module) -> None:
    raise MemoryError


def too_much_for_a_convolution(module) -> None:
    raise RuntimeError("could not create a primitive")


@pytest.mark.parametrize(
    ("befall", "reason"),
    [
        (too_much, "can't allocate memory"),
        (too_much_for_a_gpu, r"\(CUDA out of memory. Tried to allocate 2 GiB\)\. The"),
        (too_much_for_python, r"\(MemoryError\)\. The"),
        (too_much_for_a_convolution, r"\(could not create a primitive\)\. The"),
    ],
)
@pytest.mark.parametrize(
    ("stage", "sizes"),
    [
        ("alignment", r"3 clips of 1 frames, \d+ patches at once; lower data.batch_size"),
        ("tuning", r"3 clips with \[\d, \d, \d\] questions.*or data.batch_size or data.frames"),
    ],
)
def test_a_lack_of_memory_is_told_with_sizes_and_remedies(
    stage, sizes, befall, reason, data, tmp_path
):
    fault = Fault(befall)
    with pytest.raises(UserError, match=rf"^out of memory at step 1 .*{reason}.*{sizes}") as caught:
        run_with(fault, data, tmp_path, stage)
    assert f"The batch of {', '.join(names(fault.batch))} has" in str(caught.value)
    assert caught.value.__cause__ is fault.exception


class TooMuchBefore(Callback):
    def on_train_start(self, trainer, pl_module):
        too_much(pl_module)


def test_a_lack_of_memory_outside_steps_is_one_message_too(data, tmp_path):
    with pytest.raises(UserError, match=r"^out of memory at step 0 .* lower data\.batch_size or"):
        run_with(Fault(None), data, tmp_path, more=[TooMuchBefore()])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[a/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: reset by peer"),
        DistBackendError("NCCL error in: a.cpp, remote process exited or there was a network"),
    ],
)
def test_the_loss_of_another_process_is_one_message(error, data, tmp_path, monkeypatch):
    def lose(module):
        monkeypatch.setattr("callbacks.training_faults.ranks", lambda: 2)
        raise error

    with pytest.raises(UserError, match=r"another process of this run has ended .*run the same"):
        run_with(Fault(lose), data, tmp_path)


def test_a_mistake_in_a_step_stays_what_it_is(data, tmp_path):
    def mistake(module):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        run_with(Fault(mistake), data, tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before_whole(undisturbed, data, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(module):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    try:
        with pytest.raises(
            OSError, match=r"step-00000002.ckpt could not .*\(File too large\); free"
        ):
            run_with(Fault(fill), data, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000000.ckpt", "step-00000001.ckpt"]
    run_with(Fault(lambda module: None), data, tmp_path)
    assert_same(tmp_path, undisturbed("alignment", 1))


def ask(*numbers):
    def befall(module):
        for number in numbers:
            os.kill(os.getpid(), number)

    return befall


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_signal_lets_the_step_end_and_saves_it(stage, number, code, data, tmp_path):
    fault = Fault(ask(number))
    run_with(fault, data, tmp_path, stage)
    assert isinstance(fault.exception, Interrupted)
    assert fault.exception.code == code
    assert f"Stopped at step 2, as asked; all of it is in {tmp_path}" in str(fault.exception)
    saved = read_checkpoint(checkpoint_path(tmp_path, STEP + 1))["state_dict"]
    assert all(torch.equal(fault.trained[name], saved[name]) for name in saved)


class Early(Callback):
    """Asks a run to stop before its first step, when Lightning has set handlers of its own."""

    def on_train_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGTERM)
        assert not trainer.received_sigterm, "Lightning's handler, which acts at once"


def test_a_signal_before_the_first_step_is_not_lightnings(data, tmp_path):
    fault = Fault(None)
    before = signal.getsignal(signal.SIGTERM)
    run_with(fault, data, tmp_path, more=[Early()], num_sanity_val_steps=0)
    assert isinstance(fault.exception, Interrupted) and fault.exception.code == 75
    assert "Stopped at step 0" in str(fault.exception)
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


def test_a_second_ctrl_c_ends_at_once(data, tmp_path):
    fault = Fault(ask(signal.SIGINT, signal.SIGINT))
    run_with(fault, data, tmp_path)
    assert isinstance(fault.exception, Interrupted)
    assert fault.exception.code == 130
    assert "Ended at once" in str(fault.exception)
    assert checkpoints(tmp_path)[0] == checkpoint_path(tmp_path, STEP)
