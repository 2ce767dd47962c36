"""Provenance: what it records, and what it leaves out."""

import json
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from vlynx_pl.io.errors import UserError
from vlynx_pl.runs import provenance as module
from vlynx_pl.runs.provenance import (
    add_session,
    commit,
    last_session,
    provenance,
    redact_paths,
    sessions,
)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path) -> Path:
    """A package in a checkout of its own."""
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "-qm", "Begin")
    return folder


def test_provenance_is_complete_plain_data(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setattr("sys.argv", ["vlynx", "fit", "--data.frames=4"])
    monkeypatch.setattr(module, "PACKAGES", (*module.PACKAGES, "no-such-package-here"))
    known = provenance()
    assert json.loads(json.dumps(known)) == known
    assert known["command"] == ["vlynx", "fit", "--data.frames=4"]
    assert known["seed"] == 7 and known["slurm_job"] == "4711" and known["processes"] == 1
    assert known["versions"].keys() >= {"vlynx", "torch", "torchmetrics", "open3d"}
    assert known["versions"]["peft"] == version("peft")
    assert known["versions"]["no-such-package-here"] is None
    assert known["cpu"]["vectors"] and known["cpu"]["threads"] == torch.get_num_threads()
    assert len(known["gpu"]["names"]) == torch.cuda.device_count()
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert provenance()["seed"] == torch.initial_seed()


def test_neither_host_nor_user_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr("sys.argv", ["/home/alice/bin/vlynx", "--run=/scratch/alice/runs/3d"])
    add_session(tmp_path, provenance())
    known = (tmp_path / "provenance.json").read_text()
    assert "alice" not in known and socket.gethostname() not in known.split('"')
    assert sessions(tmp_path)[0]["command"] == ["~/bin/vlynx", "--run=/scratch/$USER/runs/3d"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/al", "~"),
        ("--data.root=/home/al/data", "--data.root=~/data"),
        ("Depth(/scratch/al: 3 train clips)", "Depth(/scratch/$USER: 3 train clips)"),
        ("/home/alan/data", "/home/alan/data"),
        ("/nfs/home/al/data", "/nfs/home/$USER/data"),
        ("al", "al"),
    ],
)
def test_paths_lose_the_name_of_the_user(monkeypatch, text, said):
    monkeypatch.setenv("HOME", "/home/al")
    assert redact_paths({"at": [text, 1.5, None]}) == {"at": [said, 1.5, None]}


def test_the_commit_is_that_of_the_checkout(package):
    head = git(package, "rev-parse", "HEAD")
    assert commit(package) == {"commit": head, "dirty": False}
    (package / "depth.py").write_text("")
    assert commit(package) == {"commit": head, "dirty": True}
    git(package, "add", ".")
    git(package, "commit", "-qm", "Go on")
    assert commit(package) == {"commit": git(package, "rev-parse", "HEAD"), "dirty": False}


def test_another_checkout_around_an_installed_package_is_not_its_own(package):
    installed = package / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit(installed) is None


def test_checkout_and_git_may_be_missing(package, tmp_path, monkeypatch):
    (tmp_path / "__init__.py").write_text("")
    assert commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(package) is None
    assert provenance()["git"] is None


def test_sessions_are_appended_and_the_last_is_returned(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    assert sessions(tmp_path) == [] and last_session(tmp_path) is None
    add_session(tmp_path, {"step": 0, "data": {"skipped": ["/home/alice/a.wav: is empty"]}})
    add_session(tmp_path, {"step": 40})
    first, second = sessions(tmp_path)
    assert first == {"step": 0, "data": {"skipped": ["~/a.wav: is empty"]}}
    assert last_session(tmp_path) == second == {"step": 40}
    assert [path.name for path in tmp_path.iterdir()] == ["provenance.json"]


@pytest.mark.parametrize("content", ["[{", "[1]"])
def test_a_damaged_file_is_one_clear_message_and_is_kept(tmp_path, content):
    path = tmp_path / "provenance.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"provenance\.json cannot be read .* move it away"):
        add_session(tmp_path, {"step": 0})
    assert path.read_text() == content
