"""The crash test itself: it kills where it says, and sees the smallest difference."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from callbacks import RunCheckpoint
from experiments.robustness import crash_test
from experiments.robustness.crash_phases import PHASES, Phases, Place, read_place, write_place
from experiments.robustness.crash_runs import STAGES, Session, Target, World, differences, session

ADAPTER = "adapters/vision-3d/adapter_model.safetensors"
AT_A_STEP = Place("step", 4, (1, 1, 5, 1, 0, 0, 0))


@pytest.fixture
def whole(tmp_path) -> Path:
    return write_run(tmp_path / "whole")


def write_run(run: Path) -> Path:
    note = {"format": "x", "videos": "y"}
    config = {"r": 4, "target_modules": ["fc1", "fc2"]}
    for name, content in {
        ADAPTER: b"weights",
        "adapters/vision-3d/adapter_config.json": json.dumps(config).encode(),
        "guidance.safetensors": guidance(note, b"means"),
        "metrics.csv": b"step,loss\n0,2.5\n1,1.5\n",
        "report.json": json.dumps({"after": 0.5, "provenance": str(run)}).encode(),
        "config.yaml": str(run).encode(),
        "checkpoints/step-00000002.ckpt": str(run).encode(),
    }.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    return run


def guidance(notes: dict[str, str], data: bytes) -> bytes:
    header = json.dumps({"__metadata__": notes}).encode()
    return len(header).to_bytes(8, "little") + header + data


def ended(run: Path, phase="step", *, killed=True, stage="alignment", steps=6, failure=""):
    seconds = dict.fromkeys(PHASES, 1.0)
    return Session(stage, run, Place(phase, steps), killed, failure, seconds)


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


def run_session(tmp_path, script, target=None, patience=0.0) -> Session:
    write_place(tmp_path / "now", AT_A_STEP)
    works = session("alignment", tmp_path / "run", ["sh", "-c", script], target, patience)
    while True:
        try:
            next(works)
        except StopIteration as stop:
            return stop.value
        time.sleep(0.001)


def test_the_whole_process_group_is_killed_in_the_phase(tmp_path):
    script = f"sleep 60 & echo $! > {tmp_path}/worker; cp {tmp_path}/now {tmp_path}/run.place; wait"
    target = Target("step", 5, 0.5)
    found = run_session(tmp_path, script, target, patience=0.05)
    assert (found.killed, found.failure, found.place) == (True, "", AT_A_STEP)
    assert 0.05 <= found.seconds["step"] < 5
    worker = Path("/proc", (tmp_path / "worker").read_text().strip(), "stat")
    for _ in range(1000):
        if not worker.exists() or worker.read_text().split()[2] == "Z":
            break
        time.sleep(0.001)
    else:
        pytest.fail("a worker lives on")


def test_a_process_may_end_before_it_is_killed(tmp_path):
    found = run_session(tmp_path, "true", Target("report", 1, 0.0))
    assert (found.killed, found.failure) == (False, "")


def test_a_process_that_fails_or_dies_otherwise_is_a_failure(tmp_path):
    found = run_session(tmp_path, "echo no memory; exit 3")
    assert not found.killed
    assert "exit code 3" in found.failure
    assert "no memory" in found.failure
    found = run_session(tmp_path, "kill -9 $$", Target("report", 1, 0.0))
    assert not found.killed
    assert "exit code -9" in found.failure


def test_runs_that_made_the_same_do_not_differ(whole, tmp_path):
    run = write_run(tmp_path / "run")
    config = {"r": 4, "target_modules": ["fc2", "fc1"]}
    (run / "adapters/vision-3d/adapter_config.json").write_text(json.dumps(config))
    notes = {"videos": "y", "format": "x"}
    (run / "guidance.safetensors").write_bytes(guidance(notes, b"means"))
    (run / "metrics.csv").write_bytes(b"step,loss\n1,1.5\n0,2.5\n")
    (run / ".report.json.0123.unfinished").touch()
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (ADAPTER, b"weightz"),
        ("adapters/vision-3d/adapter_config.json", b'{"r": 8, "target_modules": ["fc1", "fc2"]}'),
        ("guidance.safetensors", guidance({"format": "x", "videos": "y"}, b"moans")),
        ("guidance.safetensors", guidance({"format": "x", "videos": "z"}, b"means")),
        ("metrics.csv", b"step,loss\n0,2.5\n1,1.6\n"),
        ("metrics.csv", b"step,loss\n0,2.5\n1,1.5\n1,1.5\n"),
        ("metrics.csv", b"step,loss\n0,2.5\n"),
        ("report.json", b'{"after": 0.25}'),
        ("report.json", None),
    ],
)
def test_what_differs_is_named(name, content, whole, tmp_path):
    run = write_run(tmp_path / "run")
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    for one, other in ((run, whole), (whole, run)):
        [wrong] = differences(one, other)
        assert wrong.startswith(name)


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
            (run / ADAPTER).write_bytes(b"weightz")
        yield ended(run, "report", stage=victim.stage, killed=False)


def main(monkeypatch, tmp_path, world, *arguments) -> int:
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(crash_test, "World", world)
    monkeypatch.setattr(crash_test.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "runs"))
    monkeypatch.setattr(crash_test.signal, "signal", lambda *_: None)  # of the tests' process
    monkeypatch.setattr("sys.argv", ["crash_test", *arguments])
    return crash_test.main()


def test_runs_that_end_alike_are_well(monkeypatch, tmp_path, capsys):
    assert main(monkeypatch, tmp_path, WrittenWorld, "--kills=20") == 0
    assert "differs" not in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_differing_adapter_is_an_error_and_is_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(WrittenWorld, "spoilt", "2")
    assert main(monkeypatch, tmp_path, WrittenWorld, "--kills=20") == 1
    assert f"-2: {ADAPTER} differs" in capsys.readouterr().out
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
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (second / ADAPTER).write_bytes(b"")
    (second / ".x.0123.unfinished").touch()
    sessions = [
        *(ended(first, phase, steps=1) for phase in ("guidance", "step", "step")),
        ended(first, "report", steps=5, killed=False),
        ended(second, "report", stage="tuning", steps=7),
    ]
    table = crash_test.table(world, sessions, crash_test.verdicts(world, sessions))
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
