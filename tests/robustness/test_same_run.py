"""The comparison of two runs reports the smallest difference."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.robustness.same_run import differences

WEIGHTS = "adapters/vision-3d/adapter_model.safetensors"
CONFIG = "adapters/vision-3d/adapter_config.json"
CARD = "adapters/vision-3d/README.md"
METRICS = "step,loss,val\n0,2.5,\n1,1.5,\n1,,3.5\n"
OTHERS = "step,loss,train/mfu,val\n1,,,3.5\n0,2.5,,\n1,1.5,0.5,\n"
REPORT = '{"after": [0.5, {"stat": 1.0}], "provenance": "%s"}'
STEP = 2.0**-20


def write(run, name, content):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        (run / name).write_text(content)
    else:
        save_file({"w": content}, run / name, {"videos": "y"})


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ only in what never is the same."""
    for run, metrics, modules in (
        ("run", METRICS, ["fc1", "fc2"]),
        ("whole", OTHERS, ["fc2", "fc1"]),
    ):
        for name, content in {
            CONFIG: json.dumps({"r": 4, "target_modules": modules}),
            WEIGHTS: torch.ones(1),
            "metrics.csv": metrics,
            "report.json": REPORT % run,
            CARD: f"| Code | {run} |\n| L_stat | 1.50 |",
            "predictions-test.jsonl": "{}\n{}\n",
            "config.yaml": run,
            f".report.json.{run}.unfinished": "",
        }.items():
            write(tmp_path / run, name, content)
    assert differences(tmp_path / "run", tmp_path / "whole") == []
    return tmp_path / "run", tmp_path / "whole"


@pytest.mark.parametrize(
    ("name", "content", "within"),
    [
        (CONFIG, '{"target_modules": ["fc1", "fc2"]}', 1e-5),
        ("metrics.csv", METRICS.replace("1,1.5,", "1,,1.5"), 1e-5),
        ("metrics.csv", METRICS + "1,1.5,\n", 1e-5),
        ("metrics.csv", METRICS.replace("1.5", repr(1.5 + STEP)), 0.0),
        ("predictions-test.jsonl", "{}\n", 1e-5),
        ("report.json", REPORT.replace("1.0", "null"), 1e-5),
        ("report.json", REPORT.replace("1.0", repr(1 + STEP)), 0.0),
        (CARD, "| Code | run |\n| L_stat | lost |", 1e-5),
        (CARD, "| Code | run |\n| L_stat | 1.51 |", 0.0),
        ("extra.json", "{}", 1e-5),
        (WEIGHTS, torch.ones(2), 1.0),
        (WEIGHTS, torch.ones(1) + STEP, 0.0),
    ],
)
def test_a_difference_is_reported_once(name, content, within, runs):
    write(runs[0], name, content)
    for one, other in (runs, runs[::-1]):
        [wrong] = differences(one, other, within)
        assert wrong.startswith(name)
    if within == 0:
        assert differences(*runs, within=1e-5) == []
