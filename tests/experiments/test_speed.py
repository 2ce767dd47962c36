"""A rehearsal agrees with its plan, and the check for GPUs reports what it ran."""

import re
import subprocess
import sys

import pytest
import yaml

from experiments.speed import rehearsal
from experiments.speed.gpu_check import Step, report
from tests.conftest import REPOSITORY
from vlynx_pl.backbones import load_backbone
from vlynx_pl.backbones.tiny import write_tiny


@pytest.mark.slow
def test_the_plan_is_right_in_a_rehearsal():
    command = [sys.executable, "-m", "experiments.speed.rehearsal", "--backbone", "miniature"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"│ (align|tune) +│[^│]*│[^│]*│ +([\d.]+) │", done.stdout))
    assert {0.8 < float(ratio) < 1.2 for ratio in rows.values()} == {True} and len(rows) == 2


def test_a_rehearsal_makes_a_model_of_a_family_with_its_own_attention(tmp_path, monkeypatch):
    write_tiny("qwen2_5_vl", tmp_path / "tiny")
    monkeypatch.setattr(rehearsal, "BACKBONES", tmp_path)
    settings = {"backbone": {"init_args": {"path": str(tmp_path / "tiny")}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    rehearsal.save_random_model("tiny", tmp_path / "random")
    one, two = (load_backbone(str(tmp_path / name), "float32") for name in ("tiny", "random"))
    assert two.model.num_parameters() == one.model.num_parameters()


def test_the_check_reports_results_and_failures(tmp_path):
    found = tmp_path / "gpu-check.md"
    steps = {
        "First": Step("It fails.", ["no_such_module"]),
        "Second": Step("It is a calendar.", ["calendar", "2020", "2"]),
    }
    assert not report(found, "cpu", steps)
    text = found.read_text()
    assert text.startswith("# GPU check: ")
    assert re.search(r"## First \(\d+ s, failed with exit code 1\)\n\nIt fails", text)
    assert "No module named no_such_module" in text
    assert re.search(r"## Second \(\d+ s\)\n\nIt is a calendar.\n\n```text\n +February 2020", text)
    assert report(found, "cpu", {"Second": steps["Second"]})
