"""The command line as users call it: shipped configurations, little data."""

import csv
import io
import json
import os
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors.torch import load_file

from datamodules import DepthDataModule
from tests.conftest import CONFIGS, REPOSITORY
from tests.datamodules.conftest import write_scannet_scenes
from tests.processes import begin, ended
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.commands import cli, lightning_cli
from vlynx_pl.guidance import InterfaceGuidance
from vlynx_pl.io.interruption import Interrupted
from vlynx_pl.losses import token_statistics_loss
from vlynx_pl.runs.checkpoints import checkpoints
from vlynx_pl.saved_adapters import saved_config

QUICK = ["--data.num_workers=0", "--data.batch_size=2", "--trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_scannet_scenes(root, 3)
    return root


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> tuple[Path, str]:
    """A run that another process has finished, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "3d"
    command = ["align", "3d", *QUICK, f"--data={data}", f"--run={run}"]
    printed = run.parent / "printed"
    process = begin(printing, printed, *command, "--trainer.log_every_n_steps=1")
    assert ended(process) == [0], printed.read_text()
    return run, printed.read_text()


def printing(file, *command):
    """Run a command with its output and errors in a file."""
    os.chdir(REPOSITORY)
    sys.argv = ["vlynx", *command]
    with file.open("w") as out, redirect_stdout(out), redirect_stderr(out):
        cli.main()


def test_a_run_leaves_all_its_files_in_its_folder(finished):
    run, _ = finished
    names = {path.name for path in run.iterdir()}
    assert {
        "config.yaml",
        "metrics.csv",
        "tensorboard",
        "guidance.safetensors",
        "adapters",
        "alignment.png",
        "report.json",
    } <= names
    assert (run / "alignment.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("events*"))
    adapter = load_file(run / "adapters" / "vision-3d" / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name), "trained"
    made_with = json.loads((run / "adapters" / "vision-3d" / "made_with.json").read_text())
    guidance = InterfaceGuidance.load(run / "guidance.safetensors")
    assert made_with["fingerprint"] == guidance.source.fingerprint
    stat = json.loads((run / "report.json").read_text())["after"]["stat"]
    card = (run / "adapters" / "vision-3d" / "README.md").read_text()
    assert f"{stat:.2f} |" in card and "8 train clips" in card
    assert made_with["quantization"] is None
    [[kind, settings]] = made_with["frames"]["modalities"]
    assert kind.endswith(".Depth") and settings["encoding"] == "turbo"
    assert made_with["frames"]["frame_size"] == [64, 64]
    assert (guidance.num_videos, guidance.num_frames) == (2, 8)
    scenes = {name.split("/")[0] for name in guidance.source.videos}
    assert scenes == {"scene0000_00", "scene0001_00"}, "those to train on"
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state and all("lora_" in name for name in state), "a checkpoint is small"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train/attn", "train/stat", "train/total", "val/total"):
        values = [float(row[name]) for row in rows if row[name]]
        assert values and all(value > 0 for value in values)
    for row in rows:
        if row["train/total"]:
            total = float(row["train/attn"]) + 0.1 * float(row["train/stat"])
            assert float(row["train/total"]) == pytest.approx(total, rel=1e-4)


def test_the_report_agrees_with_a_direct_measurement(finished, data, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    run, _ = finished
    report = json.loads((run / "report.json").read_text())
    held_out = DepthDataModule(data, frame_size=(64, 64), batch_size=2, num_workers=0)
    held_out.setup("fit")
    backbone = load_backbone("experiments/miniature", "float32")
    module = InterfaceAlignment(backbone, "3d", lora=Lora(16, 32)).eval()
    guidance = InterfaceGuidance.load(run / "guidance.safetensors")
    module.use_guidance(guidance)
    backbone.load_vision_adapter("trained", saved_config(run / "adapters" / "vision-3d"))
    for when, adapter in (("before", None), ("after", "trained")):
        with torch.no_grad():
            parts = [module.encode(b["frames"], adapter) for b in held_out.val_dataloader()]
        tokens = torch.cat([part.tokens for part in parts])
        stat = token_statistics_loss(tokens, guidance.token_mean, guidance.token_var)
        assert report[when]["stat"] == pytest.approx(stat.item(), rel=1e-3)
        gaps = torch.stack([part.attention_gaps for part in parts]).mean(0)
        assert report[when]["attention_per_layer"] == pytest.approx(gaps.tolist(), rel=1e-3)


def test_a_run_ends_with_the_table_the_folder_and_the_next_command(finished):
    run, printed = finished
    assert "RGB video" in printed and "before" in printed and "after" in printed
    assert "health: effective rank" in printed
    *_, where, _, command = printed.strip().splitlines()
    assert where.startswith(f"Everything is in {run}")
    assert command.endswith(f"--model.objective.stat_weight=0 --run={run}-attention-only")
    assert command.count("--run") == 1
    report = json.loads((run / "report.json").read_text())
    assert len(report["after"]["attention_per_layer"]) == 4
    assert report["data"] == {"skipped": [], "left_out": [], "dropped_frames": []}


def test_the_saved_configuration_repeats_the_run(finished, vlynx, tmp_path):
    config = yaml.safe_load((finished[0] / "config.yaml").read_text())
    assert config["model"]["init_args"]["lora"]["rank"] == 16
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    code, out = vlynx("fit", f"--config={finished[0]}/config.yaml", f"--run={tmp_path}/again")
    assert code == 0, out
    assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")} == before
    assert (tmp_path / "again" / "metrics.csv").exists()
    first, second = (
        load_file(run / "adapters" / "vision-3d" / "adapter_model.safetensors")
        for run in (finished[0], tmp_path / "again")
    )
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_given_checkpoint_is_used_until_the_run_has_its_own(
    finished, vlynx, data, tmp_path, caplog
):
    run = tmp_path / "run"
    [given] = checkpoints(finished[0])
    command = ["fit", *CONFIGS, *QUICK, f"--data.root={data}", f"--run={run}"]
    command += ["--trainer.log_every_n_steps=1", f"--ckpt_path={given}"]
    run.mkdir()
    (run / "metrics.csv").write_text("epoch,step,train/attn\n0,77,0.5\n")
    assert vlynx(*command)[0] == 0
    adapter = Path("adapters") / "vision-3d" / "adapter_model.safetensors"
    assert (run / adapter).read_bytes() == (finished[0] / adapter).read_bytes()
    with (run / "metrics.csv").open() as file:
        steps = {int(row["step"]) for row in csv.DictReader(file)}
    assert 77 not in steps, "logged by a run that cannot go on"
    (run / "report.json").unlink()
    with caplog.at_level("INFO"):
        assert vlynx(*command)[0] == 0
    assert f"Going on from {run}/checkpoints/{given.name}" in caplog.text


def test_a_run_stopped_after_its_last_epoch_still_gets_its_results(vlynx, data, tmp_path):
    run = tmp_path / "run"
    command = ["fit", *CONFIGS, *QUICK, f"--data.root={data}", f"--run={run}"]
    command.append("--trainer.limit_val_batches=0")
    adapter = run / "adapters" / "vision-3d" / "adapter_model.safetensors"
    results = []
    for _ in range(2):
        assert vlynx(*command)[0] == 0
        report = json.loads((run / "report.json").read_text())
        del report["provenance"]
        results.append((adapter.read_bytes(), report))
        shutil.rmtree(run / "adapters")
        (run / "report.json").unlink()
    assert results[0] == results[1]


def test_a_configuration_is_never_half_written(finished, vlynx, data, tmp_path, monkeypatch):
    run = shutil.copytree(finished[0], tmp_path / "run")
    (run / "report.json").unlink()
    before = (run / "config.yaml").read_text()

    def fill_the_disk(*_, **__):
        assert (run / "config.yaml").read_text() == before
        raise OSError("no space left")

    monkeypatch.setattr(ArgumentParser, "dump", fill_the_disk)
    saving = lightning_cli._KeptConfiguration(ArgumentParser(), None, save_to_log_dir=False)
    with pytest.raises(OSError, match="no space left"):
        saving.save_config(Mock(default_root_dir=str(run)), Mock(), "fit")
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(("rank", "code"), [("0", 75), ("1", 0)])
def test_only_the_first_process_ends_with_the_exit_code_of_a_stop(vlynx, monkeypatch, rank, code):
    """Launchers end all processes as soon as one of them ends with a code other than 0."""
    monkeypatch.setenv("LOCAL_RANK", rank)

    def stop():
        raise Interrupted("Stopped, as asked")

    monkeypatch.setattr(cli, "app", stop)
    assert vlynx("fit") == (code, "" if code == 0 else "\nStopped, as asked\n")


def test_fast_dev_run_leaves_no_files(vlynx, data, tmp_path):
    code, out = vlynx(
        "fit", *CONFIGS, *QUICK, f"--data.root={data}", f"--run={tmp_path}/run",
        "--trainer.fast_dev_run=true",
    )  # fmt: skip
    assert code == 0, out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--model.objective.stat_wieght=1", "stat_wieght"),
        ("--config={}/typo.yaml", "learning_rat"),
        ("--data.root=/nowhere/at/all", "/nowhere/at/all"),
        ("--data.encoding=rainbow", "rainbow"),
        ("--backbone.path=/no/model", "/no/model"),
        ("--data.objective=tuning", "objective=tuning needs questions; give data.benchmark"),
    ],
)
def test_a_mistake_is_one_clear_error(vlynx, data, tmp_path, argument, words):
    (tmp_path / "typo.yaml").write_text("model: {init_args: {learning_rat: 1.0}}\n")
    command = ["fit", *CONFIGS, f"--data.root={data}", f"--run={tmp_path}/run"]
    code, out = vlynx(*command, argument.format(tmp_path))
    assert code != 0
    assert words in out and "Traceback" not in out


def test_help_lists_every_command(vlynx):
    code, out = vlynx("--help")
    assert code == 0
    for command in ("align", "tune", "eval", "fit", "check", "prepare", "params"):
        assert command in out


@pytest.mark.parametrize(("own", "set_to"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_do_not_spin_unless_the_user_asks_for_it(vlynx, monkeypatch, own, set_to):
    monkeypatch.setenv("OMP_WAIT_POLICY", own or "")
    if own is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert vlynx("--help")[0] == 0
    assert os.environ["OMP_WAIT_POLICY"] == set_to


def test_check_lists_the_recordings_and_fails_below_the_coverage(vlynx, data, tmp_path):
    root = shutil.copytree(data, tmp_path / "data")
    given = ["check", *CONFIGS, f"--data.root={root}", "--trainer.max_epochs=3"]
    code, printed = vlynx(*given, "--csv", tmp_path / "list.csv", "--picture", tmp_path / "a.png")
    assert code == 0 and "reference" in printed
    rows = list(csv.DictReader((tmp_path / "list.csv").open()))
    assert [(row["part"], row["name"], row["status"]) for row in rows] == [
        ("train", "scene0000_00", "ok"),
        ("train", "scene0001_00", "ok"),
        ("val", "scene0002_00", "ok"),
        ("reference", "scene0000_00", "ok"),
        ("reference", "scene0001_00", "ok"),
    ]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (root / "scans" / "scene0001_00" / "depth" / "90.png").write_bytes(b"")
    code, printed = vlynx(*given)
    assert code == 1
    assert "train: 1 of 2 recordings can be used, fewer than 100%" in printed
    assert vlynx(*given, "--coverage", "0.5")[0] == 0


def test_check_requires_data_and_knows_its_options(vlynx, data):
    code, printed = vlynx("check")
    assert code == 2 and "vlynx check" in printed and "data" in printed
    code, printed = vlynx("check", *CONFIGS, f"--data.root={data}", "--data.rot=1")
    assert code == 2 and "'rot' is not accepted" in printed


def test_a_users_class_is_found_in_the_current_folder(vlynx, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from datamodules.gallery import Thermal as Mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    given = "--data=datamodules.ModalityDataModule", "--data.modalities=[{class_path: mine.Mine}]"
    code, printed = vlynx("check", *given, "--data.root=none")
    assert code == 1 and "Give the folder that holds *.tiff" in printed


def test_a_file_name_that_is_not_utf8_is_printed_or_refused(vlynx, monkeypatch):
    name = "caf\udce9"
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stderr", screen)
    assert vlynx("check", *CONFIGS, f"--data.root={name}")[0] == 1
    assert vlynx("score", "--benchmark=AVUT", f"--predictions={name}", f"--references={name}")[0]
    screen.flush()
    refused, missing = screen.buffer.getvalue().decode().splitlines()
    assert r"--data.root=caf\udce9: the name is not UTF-8" in refused and "ln -s" in refused
    assert r"caf\udce9: AVUT does not read it" in missing
