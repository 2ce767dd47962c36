import csv
import io
import json
import logging
import math
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import stdev

import pytest

from experiments.paper import report
from experiments.paper.published import PUBLISHED
from experiments.paper.questions import ASKED, clip
from experiments.paper.report import interval, write_csv, write_report
from experiments.paper.run import WORKERS, begin_worker, execute, outdated, prepare
from experiments.paper.study import SENSES, Alignment, Place, Tuning
from experiments.paper.tables import TABLES, Row, aligned, plain, together
from experiments.toyworld.takes import SKILLS
from tests.processes import APART, begin
from vlynx_pl.io.interruption import NOTED, note_signals
from vlynx_pl.runs.provenance import redact_paths

SEEDS = (1, 2, 3)


def all_runs():
    rows = [row for rows_of in TABLES.values() for row in rows_of(SEEDS)]
    tunings = [tuning for row in rows for tuning in row.tunings]
    alignments = [alignment for tuning in tunings for alignment in tuning.alignments]
    return [*tunings, *alignments, *(a.guidance for a in alignments if a.guidance)]


def test_runs_share_a_folder_only_if_they_are_the_same_run():
    place, commands = Place(Path("data"), Path("runs")), {}
    for every in all_runs():
        command = every.command(place)
        assert commands.setdefault(every.name, command) == command
    assert len(set(map(tuple, commands.values()))) == len(commands)


@pytest.mark.parametrize("worlds", [*((world,) for world in ASKED), ("audio", "3d")])
def test_questions_are_of_the_kinds_that_need_the_sense(worlds):
    records = [clip(worlds, 0, index, 3) for index in range(20)]
    kinds = {question["kind"] for record in records for question in record["questions"]}
    assert kinds == {kind for world in worlds for kind in ASKED[world]}
    assert all(len(record["questions"]) <= 3 for record in records)
    assert records == [clip(worlds, 0, index, 3) for index in range(20)]


def test_no_answer_of_the_ego_world_is_seen_in_the_record():
    records = [clip(("ego",), 0, index, 6) for index in range(40)]
    asked = [question for record in records for question in record["questions"]]
    assert {question["answer"] for question in asked} == {"one", "two", "three", "four"}
    assert len({question["text"] for question in asked}) == 1
    for record in records:
        seen = json.dumps([record["id"], record["media"]]).casefold()
        assert not any(
            level.casefold() in seen for level in [*SKILLS, record["questions"][0]["answer"]]
        )


def test_every_published_figure_stands_beside_a_row():
    for name, figures in PUBLISHED.items():
        assert figures.keys() <= {(row.sense, row.label) for row in TABLES[name](SEEDS)}


def test_an_interval_is_students():
    """Against a table of the 97.5 % quantile: 4.303 for two degrees of freedom."""
    middle, half = interval([1.0, 2.0, 4.0])
    assert middle == pytest.approx(7 / 3)
    assert half == pytest.approx(4.303 * math.sqrt(7 / 3) / math.sqrt(3), rel=2e-3)
    assert math.isnan(interval([1.0, 2.0])[1])  # of two seeds it would be twelve deviations wide
    _, half = interval([1.0, 2.0] * 6)  # 2.201 for eleven
    assert half == pytest.approx(2.201 * stdev([1.0, 2.0] * 6) / math.sqrt(12), rel=2e-2)


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> tuple[Place, list[Row], list[str]]:
    """A study of a dozen scenes, and two steps a run, and one run that fails."""
    folder = tmp_path_factory.mktemp("study")
    place = Place(
        folder / "data", folder / "runs", clips=12, held_out=4, align_steps=2, tune_steps=2
    )
    rows = [
        plain("3d", [1], "zero-shot", "zero-shot"),
        plain("3d", [1], "LoRA-only", "lora-only"),
        plain("3d", [1], "PAVE", "pave"),
        aligned("3d", [1], "V-LynX"),
        *(row for row in together([1]) if row.label == "both"),
    ]
    prepare(place, rows)
    tunings = [tuning for row in rows for tuning in row.tunings]
    bad = Tuning("3d", 1, "raw", options=("--model.learning_rate=fast",))
    alignments = [alignment for tuning in tunings for alignment in tuning.alignments]
    failed = execute(alignments, place, 1, "alignments")
    failed += execute([*tunings, bad], place, 1, "tunings")
    return place, rows, failed


def test_every_run_leaves_its_result_and_a_failure_is_named(studied):
    place, rows, failed = studied
    assert failed == ["tune/3d-raw-seed1"]
    assert "learning_rate" in (place.runs / "tune/3d-raw-seed1.log").read_text()
    for row in rows:
        for tuning in row.tunings:
            assert tuning.result(place).exists()


def test_a_run_that_was_asked_to_stop_stops_the_study(tmp_path, monkeypatch):
    begun = []

    def stopped():
        begun.append(sys.argv)
        sys.exit(75)

    monkeypatch.setattr("vlynx_pl.commands.cli.main", stopped)
    place = Place(tmp_path / "data", tmp_path / "runs")
    with pytest.raises(SystemExit) as end:
        execute([Alignment("3d", 1), Alignment("3d", 2)], place, 1, "stopped")
    assert end.value.code == 75 and len(begun) == 1


def test_any_error_ends_its_own_run_alone(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("out of luck")

    monkeypatch.setattr("vlynx_pl.commands.cli.main", broken)
    place = Place(tmp_path / "data", tmp_path / "runs")
    runs = [Alignment("3d", 1), Alignment("3d", 2)]
    assert execute(runs, place, 1, "broken") == [run.name for run in runs]
    assert "out of luck" in (place.runs / f"{runs[0].name}.log").read_text()


def test_what_lightning_says_of_a_run_goes_to_its_log(tmp_path, monkeypatch):
    logger, screen = logging.getLogger("lightning.pytorch"), io.StringIO()
    handler = logging.StreamHandler(screen)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr("vlynx_pl.commands.cli.main", lambda: logger.warning("of the run"))
    place, run = Place(tmp_path / "data", tmp_path / "runs"), Alignment("3d", 1)
    execute([run], place, 1, "said")
    logger.warning("of the study")
    assert (place.runs / f"{run.name}.log").read_text() == "of the run\n"
    assert screen.getvalue() == "of the study\n"


def test_finished_runs_of_other_arguments_are_told(studied, capsys):
    place, _, _ = studied
    execute([Alignment("3d", 1)], place, 1, "the same")
    assert "other arguments" not in capsys.readouterr().err
    execute([Alignment("3d", 1, options=("--model.lora.rank=4",))], place, 1, "others")
    assert "1 finished runs were begun with other arguments" in capsys.readouterr().err


def test_finished_runs_on_an_alignment_that_was_made_anew_are_told(studied, capsys):
    place, _, _ = studied
    alignment = Alignment("3d", 1)
    tuning = Tuning("3d", 1, "aligned", (alignment,))
    assert not outdated(tuning, place)
    of, later = alignment.result(place), tuning.result(place).stat().st_mtime + 1
    before = of.stat()
    try:
        os.utime(of, (later, later))
        execute([tuning], place, 1, "anew")
        assert "before an alignment of theirs was made anew" in capsys.readouterr().err
    finally:
        os.utime(of, (before.st_atime, before.st_mtime))


def test_a_home_folder_in_the_arguments_makes_no_other_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    place, run = Place(tmp_path / "data", tmp_path / "runs"), Alignment("3d", 1)
    run.result(place).parent.mkdir(parents=True)
    command = redact_paths(["vlynx", *run.command(place)])
    run.result(place).write_text(json.dumps({"provenance": {"command": command}}))
    assert str(tmp_path) not in str(command)
    assert not outdated(run, place)


def ended(arguments, log):
    """Stands for a command of vlynx."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(" ".join(arguments))
    return 0 if "--seed_everything=1" in arguments else 2


def killed(arguments, log):
    os.kill(os.getpid(), signal.SIGKILL)


def test_several_runs_at_a_time_fail_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.paper.run._execute", ended)
    place, runs = Place(tmp_path / "data", tmp_path / "runs"), [Alignment("3d", s) for s in (1, 2)]
    assert execute(runs, place, 2, "two") == [runs[1].name]
    assert all((place.runs / f"{run.name}.log").exists() for run in runs)


def test_a_worker_that_the_system_kills_fails_what_is_left_and_not_the_study(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("experiments.paper.run._execute", killed)
    place, runs = Place(tmp_path / "data", tmp_path / "runs"), [Alignment("3d", s) for s in (1, 2)]
    assert sorted(execute(runs, place, 2, "killed")) == [run.name for run in runs]
    assert capsys.readouterr().err.count("fewer --workers") == 1


def test_a_study_hears_signals_again_after_a_run_of_its_own_process(tmp_path, monkeypatch):
    before = {noted: signal.getsignal(noted) for noted in NOTED}
    monkeypatch.setattr("vlynx_pl.commands.cli.main", note_signals)
    execute([Alignment("3d", 1)], Place(tmp_path / "data", tmp_path / "runs"), 1, "noting")
    assert before == {noted: signal.getsignal(noted) for noted in NOTED}


def test_worlds_are_made_of_senses_whose_guidance_alone_is_taken(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "experiments.paper.run.generate_toyworld", lambda out, world, **_: made.append(world)
    )
    place = Place(tmp_path / "data", tmp_path / "runs", clips=4, held_out=1)
    prepare(place, [aligned("3d", [1], "", guided_by="audio")])
    assert made == ["3d", "audio"]


def study(told):
    """Has one worker, whose number it tells, and waits."""
    with ProcessPoolExecutor(1, WORKERS, begin_worker) as pool:
        told.send(str(pool.submit(os.getpid).result()))
        signal.pause()


def test_workers_end_with_a_study_that_is_killed():
    ours, its = APART.Pipe()
    killed = begin(study, its)
    worker = ours.recv()
    assert runs(worker)
    killed.kill()
    killed.join()
    while runs(worker):
        time.sleep(0.05)  # for ever, if it lives on


def runs(process: str) -> bool:
    """Whether it is there, and more than an entry that nobody has collected."""
    try:
        return bool(Path("/proc", process, "cmdline").read_bytes())
    except OSError:
        return False


def test_finished_runs_are_not_run_again(studied):
    place, rows, _ = studied
    tunings = [tuning for row in rows for tuning in row.tunings]
    before = [tuning.result(place).stat().st_mtime_ns for tuning in tunings]
    assert execute(tunings, place, 1, "again") == []
    assert before == [tuning.result(place).stat().st_mtime_ns for tuning in tunings]


def test_the_report_says_what_the_runs_say(studied, tmp_path, monkeypatch):
    place, rows, _ = studied
    monkeypatch.setattr(report, "TABLES", {"senses": lambda seeds: rows})
    write_report(tmp_path, place, [1])
    with (tmp_path / "results.csv").open() as file:
        lines = {(line["row"], line["sense"]): line for line in csv.DictReader(file)}
    methods = ("zero-shot", "LoRA-only", "PAVE", "V-LynX")
    assert set(lines) == {(m, "3d") for m in methods} | {("both", "audio"), ("both", "3d-gray")}
    for (_, sense), line in lines.items():
        answers = (place.runs / line["run"] / "predictions-val.jsonl").read_text().splitlines()
        said = [json.loads(answer) for answer in answers]
        said = [row for row in said if row["labels"]["modality"] == SENSES[sense].world]
        right = [row["prediction"] in row["references"] for row in said]
        assert float(line["accuracy all"]) == pytest.approx(100 * sum(right) / len(right), abs=0.01)
    trained = {row: int(line["trained"]) for (row, _), line in lines.items()}
    assert trained["zero-shot"] == 0
    assert trained["LoRA-only"] < min(trained["V-LynX"], trained["PAVE"])
    assert trained["V-LynX"] < trained["both"]  # has two vision adapters
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| depth, Turbo colours | V-LynX |" in text and "ScanQA CIDEr 87.1" in text
    assert (tmp_path / "senses.png").read_bytes().startswith(b"\x89PNG")


def test_scores_outlive_their_runs_and_rows(studied, tmp_path, monkeypatch, capsys):
    place, rows, _ = studied
    monkeypatch.setattr(report, "TABLES", {"senses": lambda seeds: rows})
    write_report(tmp_path, place, [1])
    written = {name: (tmp_path / name).read_text() for name in ("RESULTS.md", "results.csv")}
    assert "stay as results.csv has them" not in capsys.readouterr().err
    nowhere = Place(place.data, tmp_path / "no runs")
    write_report(tmp_path, nowhere, [2])
    assert written == {name: (tmp_path / name).read_text() for name in written}
    assert "6 scores stay as results.csv has them" in capsys.readouterr().err
    monkeypatch.setattr(report, "TABLES", {"senses": lambda seeds: rows[:1]})
    write_report(tmp_path, nowhere, [1])
    assert written["results.csv"] == (tmp_path / "results.csv").read_text()
    assert "| PAVE |" not in (tmp_path / "RESULTS.md").read_text()


def test_tokens_of_no_use_are_counted_with_and_without_a_warning(tmp_path, monkeypatch):
    """Of 100 questions and 30 % right answers, two standard errors are 13 points."""
    rows = [
        plain("3d", [1], "LoRA-only", "lora-only"),
        plain("3d", [1], "no alignment", "raw"),
        *(aligned("3d", [1], label, label) for label in ("lost", "unseen", "worse", "better")),
    ]
    health = {"attn": 0.1, "video_attn": 0.1, "stat": 1, "variance": 50, "rank": 50}
    of = [
        {"accuracy all": 30},
        {"accuracy all": 60},
        {"accuracy all": 32, **health, "warned": 1},
        *({"accuracy all": right, **health, "warned": 0} for right in (42, 44, 61)),
    ]
    where = {"table": "senses", "sense": "3d", "seed": 1, "trained": 9, "asked": 100}
    lines = [
        {**where, "row": row.label, "run": row.tunings[0].name, **figures}
        for row, figures in zip(rows, of, strict=True)
    ]
    write_csv(tmp_path / "results.csv", lines)
    monkeypatch.setattr(report, "TABLES", {"senses": lambda seeds: rows})
    write_report(tmp_path, Place(tmp_path / "data", tmp_path / "runs"), [1])
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| of no use | 1 | 1 |" in text
    assert "| no better than unaligned | 0 | 1 |" in text and "| better | 0 | 1 |" in text
