"""The crash test itself: it kills where it says, and sees the smallest difference."""

import os
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from safetensors.torch import save_file

from callbacks import RunCheckpoint
from experiments.robustness import crash_runs, crash_test
from experiments.robustness.crash_phases import PHASES, Phases, Place, read_place, write_place
from experiments.robustness.crash_runs import STAGES, Attempt, Target, World, attempt
from tests.processes import PATIENCE_S

ADAPTER = "adapters/vision-3d/adapter_model.safetensors"
AT_A_STEP = Place("step", 4, (1, 1, 5, 1, 0, 0, 0))


def write_run(run: Path, weight: float = 1.0) -> Path:
    (run / ADAPTER).parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": torch.tensor(weight)}, run / ADAPTER)
    (run / "metrics.csv").write_text("step,loss\n0,2.5\n")
    (run / "report.json").write_text("{}")
    return run


def ended(run: Path, phase="step", *, killed=True, stage="alignment", steps=6, failure=""):
    seconds = dict.fromkeys(PHASES, 1.0)
    return Attempt(stage, run, Place(phase, steps), killed, failure, seconds)


def test_a_place_is_read_as_it_was_written(tmp_path):
    write_place(tmp_path / "place", Place())
    assert read_place(tmp_path / "place") == Place()
    write_place(tmp_path / "place", AT_A_STEP)
    assert read_place(tmp_path / "place") == AT_A_STEP
    assert AT_A_STEP.times("step") == 5


def test_a_run_notes_its_phases(tmp_path, monkeypatch):
    write_place(tmp_path / "place", Place())
    noted: list[str] = []
    note = os.pwrite

    def watched(*arguments) -> None:
        note(*arguments)
        noted.append(read_place(tmp_path / "place").phase)

    monkeypatch.setattr(os, "pwrite", watched)
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=2,
        limit_train_batches=2,
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        callbacks=[Phases(str(tmp_path / "place")), RunCheckpoint(minutes=0)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(BoringModel())
    # on the way to a step: begins, is saved, computes, is done
    step = ["step", "checkpoint write", "step", "step"]
    validation = ["validation", "checkpoint write", "validation"]
    epoch = ["step", *step, *step, *validation, "adapter write"]
    assert noted == ["start-up", *epoch, *epoch, "report"]
    place = read_place(tmp_path / "place")
    assert place.steps == place.times("step") == 4
    assert [place.times(phase) for phase in PHASES] == [1, 0, 4, 6, 2, 2, 1]


@given(st.integers(0, 200), st.integers())
def test_every_phase_has_its_share_of_the_kills(kills, seed):
    victims = crash_test.plan(kills, str(seed))
    assert victims == crash_test.plan(kills, str(seed))
    cells = Counter((victim.stage, t.phase) for victim in victims for t in victim.targets)
    assert cells.total() == kills
    assert ("tuning", "guidance") not in cells
    share = kills / (2 * len(PHASES) - 1)
    assert all(abs(number - share) < 1 for number in cells.values())
    assert share < 1 or len(cells) == 2 * len(PHASES) - 1
    for victim in victims:
        phases = [target.phase for target in victim.targets if target.phase != "start-up"]
        order = {"guidance": 0, "report": 2}
        assert phases == sorted(phases, key=lambda phase: order.get(phase, 1))
        assert all(target.entry >= 1 and 0 <= target.moment < 1 for target in victim.targets)


def test_works_take_turns_and_all_are_ended():
    active: set[int] = set()
    most = 0

    def work(number):
        nonlocal most
        active.add(number)
        most = max(most, len(active))
        try:
            yield None
            yield number
        finally:
            active.remove(number)

    assert sorted(crash_test.in_turns([work(i) for i in range(5)], 2)) == list(range(5))
    assert most == 2
    turns = crash_test.in_turns([work(i) for i in range(5)], 2)
    next(turns)
    assert active
    turns.close()
    assert not active


def run_attempt(tmp_path, script, target=None, patience=0.0) -> Attempt:
    """An attempt whose clock goes on by 10 ms at each look, but only in a step."""
    write_place(tmp_path / "now", AT_A_STEP)
    now = 0.0

    def monotonic():
        nonlocal now
        place = tmp_path / "run.place"
        now += 0.01 * (place.exists() and read_place(place) == AT_A_STEP)
        return now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crash_runs, "time", SimpleNamespace(monotonic=monotonic))
        return _run_attempt(tmp_path, script, target, patience)


def _run_attempt(tmp_path, script, target, patience) -> Attempt:
    works = attempt("alignment", tmp_path / "run", ["sh", "-c", script], target, patience)
    while True:
        try:
            next(works)
        except StopIteration as stop:
            return stop.value
        time.sleep(0.001)


def test_the_whole_process_group_is_killed_in_the_phase(tmp_path):
    show = f"echo $! > {tmp_path}/worker; cp {tmp_path}/now {tmp_path}/run.place"
    script = f"sleep {PATIENCE_S} & {show}; wait"
    target = Target("step", 5, 0.5)
    found = run_attempt(tmp_path, script, target, patience=0.045)
    assert (found.killed, found.failure, found.place) == (True, "", AT_A_STEP)
    assert found.seconds["step"] == pytest.approx(0.05)
    worker = Path("/proc", (tmp_path / "worker").read_text().strip(), "stat")
    while worker.exists() and worker.read_text().split()[2] != "Z":
        time.sleep(0.001)  # for ever, if it lives on


def test_a_process_may_end_before_it_is_killed(tmp_path):
    found = run_attempt(tmp_path, "true", Target("report", 1, 0.0))
    assert (found.killed, found.failure) == (False, "")


def test_a_process_that_fails_or_dies_otherwise_is_a_failure(tmp_path):
    found = run_attempt(tmp_path, "echo no memory; exit 3")
    assert not found.killed
    assert "exit code 3" in found.failure
    assert "no memory" in found.failure
    found = run_attempt(tmp_path, "kill -9 $$", Target("report", 1, 0.0))
    assert not found.killed
    assert "exit code -9" in found.failure


class WrittenWorld(World):
    """Its runs are written rather than run, with one process more than kills."""

    spoilt = "none"

    def make(self) -> None:
        pass

    def live(self, victim, name):
        run = self.folder / f"{victim.stage}-{name}"
        for target in victim.targets:
            yield None
            yield ended(run, target.phase, stage=victim.stage, steps=1)
        write_run(run)
        if name == self.spoilt:
            write_run(run, weight=1.0000001)
        yield ended(run, "report", stage=victim.stage, killed=False)


def main(monkeypatch, tmp_path, world, *arguments) -> int:
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(crash_test, "World", world)
    monkeypatch.setattr(crash_test.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "runs"))
    monkeypatch.setattr(crash_test, "clean_up_on_sigterm", lambda: None)
    monkeypatch.setattr("sys.argv", ["crash_test", *arguments])
    return crash_test.main()


def test_runs_that_end_alike_are_well(monkeypatch, tmp_path, capsys):
    assert main(monkeypatch, tmp_path, WrittenWorld, "--kills=20") == 0
    assert "differs" not in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_differing_adapter_is_an_error_and_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(WrittenWorld, "spoilt", "2")
    assert main(monkeypatch, tmp_path, WrittenWorld, "--kills=20") == 1
    assert f"-2: {ADAPTER}, weight differs by 1e-07" in capsys.readouterr().out
    assert list((tmp_path / "runs").glob(f"*-2/{ADAPTER}"))


def test_too_few_kills_are_an_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(WrittenWorld, "live", lambda *_: iter(()))
    monkeypatch.setattr(WrittenWorld, "run_whole", lambda *_: None)
    assert main(monkeypatch, tmp_path, WrittenWorld, "--kills=2") == 1
    assert "2 kills came too late" in capsys.readouterr().out


def test_the_table_tells_where_kills_fell_and_what_came_of_it(tmp_path):
    world = WrittenWorld(tmp_path)
    for stage in STAGES:
        world.run_whole(stage)
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", weight=2.0)
    (second / ".x.0123.unfinished").touch()
    attempts = [
        *(ended(first, phase, steps=1) for phase in ("guidance", "step", "step")),
        ended(first, "report", steps=5, killed=False),
        ended(second, "report", stage="tuning", steps=7),
    ]
    table = crash_test.table(world, attempts, crash_test.verdicts(world, attempts))
    rows = {
        row[0]: row[1:] for row in zip(*(column.cells for column in table.columns), strict=True)
    }
    assert rows["guidance"] == ("1", "·")
    assert rows["step"] == ("2", "·")
    assert rows["report"] == ("·", "1")
    assert rows["[bold]all"] == ("3", "1")
    assert rows["runs finished"] == ("1 of 1", "1 of 1")
    assert rows["adapter equal"] == ("1 of 1", "0 of 1")
    assert rows["metrics.csv equal"] == ("1 of 1", "1 of 1")
    assert rows["processes"] == ("4", "1")
    assert rows["steps done twice"] == ("2 of 6", "1 of 6")
    assert rows["files left half written"] == ("0", "1")


@pytest.mark.slow
def test_killed_runs_end_like_whole_ones(monkeypatch, tmp_path):
    assert main(monkeypatch, tmp_path, World, "--kills=2") == 0
