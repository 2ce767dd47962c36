"""A run folder has one process at a time, one configuration, and one finished run."""

import os
import signal
from pathlib import Path

import pytest
import yaml

from tests.processes import APART, PATIENCE_S, begin
from vlynx_pl.runs.run_folder import (
    RunFolderError,
    lock_run_folder,
    refuse_finished,
    refuse_other_settings,
)

SETTINGS = {
    "seed_everything": 42,
    "run": "runs/a",
    "backbone": {"class_path": "B", "init_args": {"path": "/old", "dtype": "float32"}},
    "trainer": {"max_epochs": 2, "devices": 1, "callbacks": [{"class_path": "x"}]},
    "model": {"class_path": "M", "init_args": {"learning_rate": 1e-3, "modalities": {}}},
    "data": {"class_path": "D", "init_args": {"root": "/old", "batch_size": 8, "num_workers": 2}},
    "checkpoint": {"minutes": 10.0},
}


def _hold(run: Path, taken) -> None:
    lock_run_folder(run)
    taken.set()
    signal.pause()


def test_a_folder_is_locked_until_its_process_ends(tmp_path):
    taken = APART.Event()
    holder = begin(_hold, tmp_path, taken)
    assert taken.wait(PATIENCE_S)
    with pytest.raises(RunFolderError, match=f"in use by process {holder.pid} on "):
        lock_run_folder(tmp_path)
    holder.kill()
    holder.join()
    os.close(lock_run_folder(tmp_path))


@pytest.mark.parametrize("result", ["report.json", "scores-val.json"])
def test_a_finished_run_is_not_overwritten(result, tmp_path):
    refuse_finished(tmp_path)
    (tmp_path / result).touch()
    with pytest.raises(RunFolderError, match="already holds a finished run"):
        refuse_finished(tmp_path)


def test_a_run_that_lacks_figures_may_be_resumed(tmp_path):
    (tmp_path / "scores-val.json").write_text('{"a/em1": 1.0, "failed": {"a/meteor": "why"}}')
    refuse_finished(tmp_path)
    (tmp_path / "scores-test.json").write_text('{"a/em1": 1.0}')
    with pytest.raises(RunFolderError, match="already holds a finished run"):
        refuse_finished(tmp_path)


def changed(path: str, value: object) -> dict:
    settings = yaml.safe_load(yaml.safe_dump(SETTINGS))
    *above, name = path.split(".")
    part = settings
    for key in above:
        part = part[key]
    part[name] = value
    return settings


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.init_args.modalities", {"3d": None}),
        ("data.init_args.batch_size", 4),
        ("data.class_path", "E"),
        ("trainer.max_epochs", 3),
        ("seed_everything", 1),
    ],
)
def test_a_run_is_not_resumed_with_another_configuration(path, value, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.raises(RunFolderError, match=path.replace(".", r"\.")):
        refuse_other_settings(tmp_path, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("run", "elsewhere/a"),
        ("trainer.strategy", "ddp"),
        ("data.init_args.root", "/new"),
        ("backbone.init_args.path", "/new"),
        ("checkpoint.minutes", 1.0),
    ],
)
def test_a_run_may_be_resumed_elsewhere(path, value, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    refuse_other_settings(tmp_path, changed(path, value))


@pytest.mark.parametrize("text", [None, "", "a: ["])
def test_a_run_without_its_configuration_is_not_resumed(text, tmp_path):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunFolderError, match=r"config\.yaml cannot be read"):
        refuse_other_settings(tmp_path, SETTINGS)


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_where_a_run_folder_is_expected(tmp_path, name):
    (tmp_path / "file").touch()
    message = "cannot be written to .*a file, not a folder.*--run=FOLDER"
    with pytest.raises(RunFolderError, match=message):
        lock_run_folder(tmp_path / name)
