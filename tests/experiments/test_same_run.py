"""What of two runs is compared, and how small a difference is seen."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.robustness.same_run import differences

ADAPTER = "adapters/vision-3d/adapter_model.safetensors"
CONFIG = "adapters/vision-3d/adapter_config.json"
METRICS = "step,loss,val\n0,2.5,\n1,1.5,\n1,,3.5\n"
SMALL = 2.0**-20  # what is added to 1 or 1.5 here is not rounded away


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    return write_run(tmp_path / "run"), write_run(tmp_path / "whole")


def write_run(run: Path) -> Path:
    config = {"r": 4, "target_modules": ["fc1", "fc2"]}
    for name, content in {
        CONFIG: json.dumps(config),
        "metrics.csv": METRICS,
        "report.json": json.dumps({"after": [0.5, {"stat": 1.0}], "provenance": str(run)}),
        "predictions-test.jsonl": "{}\n{}\n",
        "config.yaml": str(run),
        "checkpoints/step-00000002.ckpt": str(run),
        ".report.json.0123.unfinished": "",
    }.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(content)
    write_tensors(run / ADAPTER, 1.0)
    write_tensors(run / "guidance.safetensors", 1.0, {"videos": "y"})
    return run


def write_tensors(path: Path, value: float, notes: dict[str, str] | None = None) -> None:
    save_file({"a": torch.zeros(2), "w": torch.tensor([value])}, path, notes)


def test_an_order_that_is_by_chance_does_not_matter(runs):
    (runs[0] / CONFIG).write_text(json.dumps({"target_modules": ["fc2", "fc1"], "r": 4}))
    (runs[0] / "metrics.csv").write_text("step,loss,val\n1,,3.5\n0,2.5,\n1,1.5,\n")
    assert differences(*runs) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, '{"r": 8, "target_modules": ["fc1", "fc2"]}'),
        (CONFIG, '{"target_modules": ["fc1", "fc2"]}'),
        ("metrics.csv", METRICS.replace("1,1.5,", "1,1.6,")),
        ("metrics.csv", METRICS.replace("1,1.5,", "1,,1.5")),
        ("metrics.csv", METRICS + "1,1.5,\n"),
        ("metrics.csv", METRICS.replace("1,1.5,\n", "")),
        ("predictions-test.jsonl", "{}\n"),
        ("report.json", '{"after": [0.5, {"stat": null}]}'),
        ("report.json", None),
    ],
)
@pytest.mark.parametrize("within", [0.0, 1e-5])
def test_what_differs_is_named_once(name, content, within, runs):
    if content is None:
        (runs[0] / name).unlink()
    else:
        (runs[0] / name).write_text(content)
    for one, other in (runs, runs[::-1]):
        [wrong] = differences(one, other, within)
        assert wrong.startswith(name)


@pytest.mark.parametrize("name", [ADAPTER, "report.json", "metrics.csv"])
def test_numbers_are_the_same_to_the_last_bit_or_within_what_is_given(name, runs):
    def write(difference: float) -> None:
        if name == ADAPTER:
            write_tensors(runs[0] / name, 1.0 + difference)
        elif name == "report.json":
            (runs[0] / name).write_text(json.dumps({"after": [0.5, {"stat": 1.0 + difference}]}))
        else:
            (runs[0] / name).write_text(METRICS.replace("1,1.5,", f"1,{1.5 + difference!r},"))

    write(SMALL)
    [wrong] = differences(*runs)
    assert wrong.startswith(f"{name}, ")
    assert differences(*runs, within=1e-5) == []
    write(100 * SMALL)
    assert len(differences(*runs, within=1e-5)) == 1


def test_notes_and_shapes_of_tensors_count(runs):
    write_tensors(runs[0] / "guidance.safetensors", 1.0, {"videos": "z"})
    save_file({"a": torch.zeros(1), "w": torch.ones(1)}, runs[0] / ADAPTER)
    wrong = differences(*runs, within=1.0)
    assert wrong == [
        f"{ADAPTER}, a has another shape or type",
        "guidance.safetensors, notes, videos differs: 'z' and not 'y'",
    ]
