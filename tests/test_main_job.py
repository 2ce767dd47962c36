"""The main job in full, on the toy world: what the README promises to see."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.toyworld import generate_toyworld
from tests.conftest import CONFIGS, REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "world"
    generate_toyworld(out, scenes=600)
    return out


def align(world: Path, run: Path, *options: str, modality: str = "3d") -> dict:
    configurations = [each.replace("align/3d", f"align/{modality}") for each in CONFIGS]
    command = [sys.executable, "-m", "vlynx_pl.commands.cli", "fit", *configurations]
    command += [f"--data.root={world}", f"--run={run}", *options]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return json.loads((run / "report.json").read_text())


def test_alignment_closes_the_gap_and_keeps_the_tokens_alive(world, tmp_path):
    report = align(world, tmp_path / "run")
    before, after = report["before"], report["after"]
    assert after["stat"] < 0.7 * before["stat"]
    assert sum(after["attention_per_layer"]) < sum(before["attention_per_layer"])
    assert report["warnings"] == []


def test_the_attention_loss_alone_collapses_the_tokens_of_sound_and_says_so(tmp_path):
    world = tmp_path / "world"
    generate_toyworld(world, "audio", scenes=600)
    alone = "--model.objective.stat_weight=0"
    report = align(world, tmp_path / "run", alone, modality="audio")
    before, after = report["before"], report["after"]
    assert sum(after["attention_per_layer"]) < 0.5 * sum(before["attention_per_layer"])
    assert any("collapsed" in warning for warning in report["warnings"])


def test_alignment_brings_gray_depth_nearer_to_video(world, tmp_path):
    align(world, tmp_path / "run", "--data.encoding=gray")
    command = [sys.executable, "-m", "vlynx_pl.commands.cli", "analyse", str(tmp_path / "run")]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    found = json.loads((tmp_path / "run" / "analysis" / "interface.json").read_text())
    gaps = {
        tuple(pair["streams"]): pair["gap_per_vector"]
        for pair in found["distances"]
        if pair["level"] == "tokens"
    }
    assert gaps["3d after", "video"] < 0.5 * gaps["3d before", "video"]
