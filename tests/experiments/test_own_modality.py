"""The documented example of a new modality can be aligned, and is as short as promised."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.samples import BadSample
from experiments.own_modality.accelerometer import render
from experiments.toyworld.video_files import write_video
from tests.conftest import REPOSITORY
from vlynx_pl.commands import cli

EXAMPLE = REPOSITORY / "experiments" / "own_modality"


def write_trace(path: Path, hertz: float, axis: int) -> Path:
    trace = np.zeros((256, 3))
    trace[:, axis] = np.sin(2 * np.pi * hertz * np.arange(256) / 100)
    np.savetxt(path, trace, delimiter=",")
    return path


def test_an_accelerometer_is_aligned(tmp_path, monkeypatch):
    for i in range(5):
        write_trace(tmp_path / f"{i}.csv", 3 + 8 * i, i % 3)
        frames = np.full((8, 64, 64, 3), 40 * i, np.uint8)
        write_video(tmp_path / "videos" / f"{i}.mp4", frames, 4)
    monkeypatch.chdir(REPOSITORY)
    arguments = [
        "--config=experiments/backbones/miniature.yaml",
        "--config=experiments/own_modality/accelerometer.yaml",
        "--config=experiments/align/backbones/miniature.yaml",
        f"--data.root={tmp_path}",
        f"--data.reference_root={tmp_path / 'videos'}",
        f"--run={tmp_path / 'run'}",
        "--data.num_workers=0",
    ]
    monkeypatch.setattr(sys, "argv", ["vlynx", "fit", *arguments])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["after"]["stat"] < report["before"]["stat"]
    assert (tmp_path / "run" / "adapters" / "vision-accelerometer").is_dir()


def test_axes_are_colours_and_frequencies_are_rows(tmp_path):
    for axis in range(3):
        frame = render(write_trace(tmp_path / "a.csv", 25, axis))[0]  # half of Nyquist
        assert frame.shape[:2] == (3, 33)
        assert frame.float().mean((1, 2)).argmax() == axis
        assert frame[axis].float().mean(1).argmax() == 16


def test_a_file_that_is_not_a_trace_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n" * 80)
    with pytest.raises(BadSample, match="not a trace"):
        render(tmp_path / "a.csv")


def test_it_is_one_short_file():
    code = (EXAMPLE / "accelerometer.py").read_text().splitlines()
    assert len([line for line in code if line.strip()]) <= 40
