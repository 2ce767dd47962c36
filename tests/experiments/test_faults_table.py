"""What the table of provoked faults is made of."""

import pytest
import torch
from safetensors.torch import save_file

from experiments.robustness import faults


def test_a_run_is_told_by_what_it_leaves(tmp_path):
    assert faults.left(tmp_path / "none") == "nothing"
    for name in ("checkpoints/step-00000003.ckpt", "checkpoints/step-00000012.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("guidance.safetensors", "config.yaml", "checkpoints/.step-1.ckpt.0.unfinished"):
        (tmp_path / name).touch()
    assert faults.left(tmp_path) == (
        "checkpoints of steps 3, 12; checkpoints/.step-1.ckpt.0.unfinished; guidance.safetensors"
    )


@pytest.mark.parametrize(
    ("apart", "told"),
    [
        (0.0, "ends as if undisturbed"),
        (1e-7, "ends as one process would"),
        (1e-2, "ends elsewhere"),
    ],
)
def test_adapters_are_compared(apart, told, tmp_path):
    for name, value in (("one", 0.0), ("other", apart)):
        (tmp_path / name / "adapters" / "vision-3d").mkdir(parents=True)
        path = tmp_path / name / "adapters" / "vision-3d" / "adapter_model.safetensors"
        save_file({"weight": torch.tensor([1.0, value])}, path)
    assert faults.compared(tmp_path / "one", tmp_path / "other", "fit").startswith(told)
    assert "missing" in faults.compared(tmp_path / "one", tmp_path / "none", "fit")


def test_markdown_has_a_row_a_fault():
    lines = faults.markdown([("a|b", "1", "m", "l", "s")]).splitlines()
    assert lines[0].startswith("| fault | exit code |")
    assert lines[2] == r"| a\|b | 1 | m | l | s |"
