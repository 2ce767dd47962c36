"""What the table of provoked faults is made of."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.robustness import faults
from experiments.robustness.small_world import Ended


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


def test_a_run_is_compared_in_all_that_it_made(tmp_path):
    for name, loss in (("one", 0.5), ("other", 0.5 + 1e-7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(f'{{"after": {loss}}}')
    one, other = tmp_path / "one", tmp_path / "other"
    assert faults.compared(one, one, 0.0) == "ends as if undisturbed"
    assert faults.compared(one, other, 1e-5) == "ends as if undisturbed, within 1e-05"
    assert faults.compared(one, other, 0.0).startswith("ends otherwise: report.json, after")


@dataclass
class RunWorld:
    """Its runs are written rather than run."""

    folder: Path
    code: int = 0  # of the same command again

    def whole(self, run, **options):
        run.mkdir()
        (run / "report.json").write_text("{}")
        return Ended(self.code, "", options)

    def undisturbed(self, kind):
        whole = self.folder / kind
        whole.mkdir()
        (whole / "report.json").write_text("{}")
        return whole


@pytest.mark.parametrize(
    ("code", "ends", "outcome", "wrong"),
    [
        (0, True, "ends as if undisturbed", False),
        (1, True, "fails again, exit code 1", True),
        (1, False, "fails again, exit code 1", False),
        (0, False, "ends as if undisturbed", True),
    ],
)
def test_what_should_fail_again_must_and_nothing_else_may(code, ends, outcome, wrong, tmp_path):
    fault = faults.Fault(lambda world, run: Ended(1, "Error: x", {}), (1,), "Error", ends)
    row, complaint = faults.tell(RunWorld(tmp_path, code), "a fault", fault)
    assert row[-1] == outcome
    assert bool(complaint) == wrong


def test_what_cannot_be_tried_here_is_not_wrong(tmp_path):
    def befall(world, run):
        raise faults.NotTriedError("mount: permission denied")

    row, complaint = faults.tell(RunWorld(tmp_path), "a", faults.Fault(befall, (1,), ""))
    assert row[-1] == "not tried: mount: permission denied"
    assert not complaint


def test_markdown_has_a_row_a_fault():
    lines = faults.markdown([("a|b", "1", "m", "l", "s")]).splitlines()
    assert lines[0].startswith("| fault | exit code |")
    assert lines[2] == r"| a\|b | 1 | m | l | s |"


@pytest.mark.slow
def test_a_stopped_run_ends_as_if_undisturbed(monkeypatch, capsys):
    monkeypatch.setattr(faults, "clean_up_on_sigterm", lambda: None)  # of the tests' process
    monkeypatch.setattr("sys.argv", ["faults", "--only", "SIGTERM in a step"])
    assert faults.main() == 0
    assert "1 faults in" in capsys.readouterr().out
