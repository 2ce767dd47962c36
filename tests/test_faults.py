"""Faults of a run: nothing bad reaches the adapter, and what was saved stays whole."""

import json
import os
import resource
import signal

import pytest
import torch
from lightning import Callback
from safetensors import safe_open

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


def run_with(fault, data, run, stage="alignment") -> None:
    """A run that saves before every step, and is befallen in its second one."""
    own = [ReferenceGuidance(max_batches=2)] if stage == "alignment" else []
    others = [Watch(run, ()), fault, TrainingFaults(), RunCheckpoint(0)]
    session(data, run, stage, callbacks=[*own, *others])


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


def too_much(module) -> None:
    torch.empty(1 << 50, dtype=torch.uint8)


def too_much_for_a_gpu(module) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


def too_much_for_python(module) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("befall", "reason"),
    [
        (too_much, "can't allocate memory"),
        (too_much_for_a_gpu, r"\(CUDA out of memory. Tried to allocate 2 GiB\)\. The"),
        (too_much_for_python, r"\(MemoryError\)\. The"),
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


def test_a_second_ctrl_c_ends_at_once(data, tmp_path):
    fault = Fault(ask(signal.SIGINT, signal.SIGINT))
    run_with(fault, data, tmp_path)
    assert isinstance(fault.exception, Interrupted)
    assert fault.exception.code == 130
    assert "Ended at once" in str(fault.exception)
    assert checkpoints(tmp_path)[0] == checkpoint_path(tmp_path, STEP)
