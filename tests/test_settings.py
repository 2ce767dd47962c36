"""Settings that must not cost results, and settings that libraries refuse."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from safetensors.torch import load_file

from callbacks import AdapterCheckpoint, AlignmentReport, AnswerScores, ReferenceGuidance
from datamodules.benchmarks import AVSD, InstructJSON, ScanQA
from tests.conftest import CONFIGS
from tests.datamodules.conftest import write_scannet_scenes
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.commands.lightning_cli import _with_results
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import PREEMPTED
from vlynx_pl.runs.run_folder import is_finished
from vlynx_pl.tuning import InstructionTuning

ALIGNING = [ReferenceGuidance, AdapterCheckpoint, AlignmentReport]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_scannet_scenes(root, 3)
    return root


@pytest.fixture
def command(data, tmp_path):
    own = "--data.num_workers=0", "--data.batch_size=2", "--trainer.max_epochs=2"
    return ["fit", *CONFIGS, *own, f"--data.root={data}", f"--run={tmp_path / 'run'}"]


@pytest.mark.parametrize("stage", [InterfaceAlignment, InstructionTuning])
def test_the_callbacks_of_a_stage_are_always_present_and_act_last(stage):
    wanted = ALIGNING if stage is InterfaceAlignment else [AdapterCheckpoint, AnswerScores]
    model = stage.__new__(stage)
    assert [type(one) for one in _with_results(model, [])] == wanted
    mine, own = LearningRateMonitor(), wanted[-1]()
    made = _with_results(model, [own, mine])
    assert [type(one) for one in made] == [LearningRateMonitor, *wanted] and made[-1] is own


CALLBACKS = {
    "a file": "--config={}/mine.yaml",
    "null": "--trainer.callbacks=null",
    "added": "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor",
}


@pytest.mark.parametrize("case", CALLBACKS)
def test_a_users_callbacks_cost_no_results(vlynx, command, tmp_path, case):
    (tmp_path / "mine.yaml").write_text(
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LearningRateMonitor}]}"
    )
    code, said = vlynx(*command, "--trainer.max_steps=1", CALLBACKS[case].format(tmp_path))
    assert code == 0, said
    run = tmp_path / "run"
    for name in ("report.json", "guidance.safetensors", "adapters/vision-3d/made_with.json"):
        assert (run / name).is_file(), name


class StopAt(Callback):
    """Sets should_stop in a hook, once."""

    def __init__(self, hook: str, step: int = 1):
        self.done = False

        def ask(trainer, *_, **__):
            if not self.done and trainer.global_step >= step:
                self.done = trainer.should_stop = True

        setattr(self, hook, ask)


@pytest.mark.parametrize(
    "hook",
    [
        "on_train_epoch_end",
        pytest.param("on_train_batch_end", marks=pytest.mark.slow),
        pytest.param("on_validation_end", marks=pytest.mark.slow),
    ],
)
def test_a_callback_that_sets_should_stop_pauses_the_run(vlynx, command, data, tmp_path, hook):
    run, whole = tmp_path / "run", data.parent / "whole"
    if not whole.exists():
        assert vlynx(*command, f"--run={whole}")[0] == 0
    mine = {"class_path": "tests.test_settings.StopAt", "init_args": {"hook": hook}}
    code, said = vlynx(*command, f"--trainer.callbacks={json.dumps([mine])}")
    assert code == PREEMPTED, said
    assert "a callback has set should_stop" in said and "Run the same command again" in said
    assert not is_finished(run)
    assert vlynx(*command)[0] == 0
    tensors = Path("adapters/vision-3d/adapter_model.safetensors")
    first, second = (load_file(each / tensors) for each in (run, whole))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_time_limit_pauses_the_run_and_counts_anew(vlynx, command, tmp_path, monkeypatch):
    def elapsed(self, stage="train"):
        return self._offset + (0.0 if self.start_time(stage) is None else 7.0)

    monkeypatch.setattr(Timer, "time_elapsed", elapsed)
    for _ in range(2):
        code, said = vlynx(*command, "--trainer.max_time=00:00:00:05")
        assert code == PREEMPTED and "trainer.max_time is over" in said, said
    steps = [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    assert steps[-1] == "step-00000002.ckpt", "each session makes progress"
    state = torch.load(tmp_path / "run/checkpoints" / steps[-1], weights_only=True)
    assert "Timer" not in state["callbacks"]
    assert not is_finished(tmp_path / "run")


def test_early_stopping_ends_the_run(vlynx, command, tmp_path):
    stopping = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"]
    stopping += ["--trainer.callbacks.monitor=val/total", "--trainer.callbacks.patience=1"]
    stopping += ["--trainer.callbacks.min_delta=1e9", "--trainer.max_epochs=9"]
    code, said = vlynx(*command, *stopping)
    assert code == 0, said
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["after"] and (tmp_path / "run/adapters/vision-3d").is_dir()


def test_the_benchmark_says_how_its_answers_are_scored(tmp_path):
    class Mine(ScanQA):
        pass

    assert Mine(tmp_path).rules() is ScanQA(tmp_path).rules() is ScanQA.protocol
    assert InstructJSON(tmp_path, scored_as="AVSD").rules() is AVSD.protocol
    with pytest.raises(UserError, match=r"no scores for 'InstructJSON'.*scored_as=ScanQA"):
        InstructJSON(tmp_path).rules()


SETTINGS = {
    "--trainer.strategy=dpp": "strategy=dpp.*invalid strategy name",
    "--trainer.strategy=ddp_fork": "use --trainer.strategy=ddp",
    "--trainer.strategy=fsdp": "strategy=fsdp.*requires a GPU",
    "--trainer.accelerator=gpuu": "accelerator=gpuu.*invalid accelerator name",
    "--trainer.devices=0": "devices=0",
    "--trainer.barebones=true": "--trainer.barebones=true disables",
    "--trainer.val_check_interval=100000": "val_check_interval",
    "--trainer.max_epochs=-1": "give --trainer.max_steps",
    "--trainer.max_time=soon": "max_time=soon",
    "--trainer.accumulate_grad_batches=0": "accumulate_grad_batches=0",
    "--trainer.callbacks=[callbacks.AlignmentReport,callbacks.AlignmentReport]": "more than one",
    "--trainer.callbacks={class_path: lightning.pytorch.callbacks.EarlyStopping, "
    "init_args: {monitor: a, mode: up}}": "`mode` can be min, max, got up",
    "--data.num_workers=-1": "data.num_workers=-1 must be 0 or more",
    "--model.lora.rank=0": "`r` should be a positive integer",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_a_library_refuses_is_one_message(vlynx, command, setting):
    code, said = vlynx(*command, setting)
    said = " ".join(said.split())
    assert code == 1 and "Traceback" not in said
    assert re.search(f"Error: .*{SETTINGS[setting]}", said), said


def test_contradictory_slurm_variables_are_one_message(vlynx, command, monkeypatch):
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    for name, value in {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "6"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    code, said = vlynx(*command)
    assert code == 1 and "Traceback" not in said
    assert "Use `--ntasks-per-node=6` instead" in " ".join(said.split())


@pytest.mark.parametrize("name", ["MASTER_PORT", "SLURM_NTASKS"])
def test_a_variable_that_is_not_a_number_is_named(vlynx, monkeypatch, name):
    monkeypatch.setitem(os.environ, name, "two")
    assert vlynx("params")[1].startswith(f"Error: the environment has {name}=two, which is not a")


class Broken(Callback):
    def on_train_batch_end(self, *_, **__):
        raise ValueError("a mistake of mine")


def test_a_bug_in_a_users_callback_keeps_its_traceback(vlynx, command):
    with pytest.raises(ValueError, match="a mistake of mine"):
        vlynx(*command, "--trainer.callbacks=tests.test_settings.Broken")
