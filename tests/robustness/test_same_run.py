"""The comparison of two runs sees the smallest difference."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.robustness.same_run import differences

WEIGHTS = "adapters/vision-3d/adapter_model.safetensors"
CONFIG = "adapters/vision-3d/adapter_config.json"
METRICS = "step,loss,val\n0,2.5,\n1,1.5,\n1,,3.5\n"
REPORT = '{"after": [0.5, {"stat": 1.0}], "provenance": "%s"}'


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ by chance only."""
    for run, metrics, modules in (
        ("run", METRICS, ["fc1", "fc2"]),
        ("whole", "step,loss,val\n1,,3.5\n0,2.5,\n1,1.5,\n", ["fc2", "fc1"]),
    ):
        for name, content in {
            CONFIG: json.dumps({"r": 4, "target_modules": modules}),
            "metrics.csv": metrics,
            "report.json": REPORT % run,
            "predictions-test.jsonl": "{}\n{}\n",
            "config.yaml": run,
            f".report.json.{run}.unfinished": "",
        }.items():
            (tmp_path / run / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / run / name).write_text(content)
        write_weights(tmp_path / run, 1.0)
    assert differences(tmp_path / "run", tmp_path / "whole") == []
    return tmp_path / "run", tmp_path / "whole"


def write_weights(run, value, notes="y"):
    tensors = {"a": torch.zeros(2), "w": torch.tensor([value])}
    save_file(tensors, run / WEIGHTS, {"videos": notes})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, '{"target_modules": ["fc1", "fc2"]}'),
        ("metrics.csv", METRICS.replace("1,1.5,", "1,,1.5")),
        ("metrics.csv", METRICS + "1,1.5,\n"),
        ("predictions-test.jsonl", "{}\n"),
        ("report.json", REPORT.replace("1.0", "null")),
        ("report.json", None),
    ],
)
def test_what_differs_is_named_once(name, content, runs):
    (runs[0] / name).unlink()
    if content is not None:
        (runs[0] / name).write_text(content)
    for one, other in (runs, runs[::-1]):
        [wrong] = differences(one, other, within=1e-5)
        assert wrong.startswith(name)


def test_numbers_are_the_same_to_the_last_bit_or_within_what_is_given(runs):
    write_weights(runs[0], 1 + 2.0**-20)
    (runs[0] / "report.json").write_text(REPORT.replace("1.0", repr(1 + 2.0**-20)))
    (runs[0] / "metrics.csv").write_text(METRICS.replace("1.5", repr(1.5 + 2.0**-20)))
    wrong = differences(*runs)
    assert [what.partition(",")[0] for what in wrong] == [WEIGHTS, "metrics.csv", "report.json"]
    assert differences(*runs, within=1e-5) == []
    write_weights(runs[0], 1 + 2.0**-14)
    assert len(differences(*runs, within=1e-5)) == 1


def test_notes_and_shapes_of_tensors_count(runs):
    write_weights(runs[0], 1.0, "z")
    [wrong] = differences(*runs)
    assert wrong == f"{WEIGHTS}, notes, videos differs: 'z' and not 'y'"
    save_file({"a": torch.zeros(1), "w": torch.ones(1)}, runs[0] / WEIGHTS, {"videos": "y"})
    assert differences(*runs, within=1.0) == [f"{WEIGHTS}, a has another shape or type"]
