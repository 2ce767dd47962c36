"""The study in miniature: what its runs are, how they fail, and what its report says."""

import csv
import json
import math
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import stdev

import pytest

from experiments.paper import report, run
from experiments.paper.published import PUBLISHED
from experiments.paper.questions import ASKED, clip
from experiments.paper.report import interval, write_csv, write_report
from experiments.paper.run import execute, outdated, prepare
from experiments.paper.study import MODALITIES, AlignmentRun, Study, TuningRun
from experiments.paper.tables import TABLES, Row, aligned, plain, reduction, together
from experiments.toyworld.takes import SKILLS
from vlynx_pl.commands import cli
from vlynx_pl.commands.plan.making import parsed_run
from vlynx_pl.runs.provenance import redact_paths

SEEDS = (1, 2, 3)


@pytest.fixture
def study(tmp_path) -> Study:
    return Study(tmp_path / "data", tmp_path / "runs")


def all_runs():
    rows = [row for rows_of in TABLES.values() for row in rows_of(SEEDS)]
    tunings = [tuning for row in rows for tuning in row.tunings]
    alignments = [alignment for tuning in tunings for alignment in tuning.alignments]
    return [*tunings, *alignments, *(a.guidance for a in alignments if a.guidance)]


def test_runs_share_a_folder_only_if_they_are_the_same_run(study):
    commands = {}
    for every in all_runs():
        command = every.command(study)
        assert commands.setdefault(every.name, command) == command
    assert len(set(map(tuple, commands.values()))) == len(commands)


@pytest.mark.parametrize(
    ("label", "keep", "reduce"),
    [("spread-0.25", 0.25, "spread"), ("pool-4", {"3d": 4}, {"3d": "pool"})],
)
def test_runs_with_fewer_tokens_can_be_parsed(study, label, keep, reduce):
    [row] = [r for r in reduction([1]) if (r.modality, r.tunings[0].label) == ("3d-gray", label)]
    _, *arguments = row.tunings[0].command(study)
    streams = parsed_run("fit", arguments)["model"]["init_args"]["streams"]["init_args"]
    assert (streams["keep"], streams["reduce"]) == (keep, reduce)


@pytest.mark.parametrize("worlds", [*((world,) for world in ASKED), ("audio", "3d")])
def test_questions_are_of_the_kinds_that_need_the_modality(worlds):
    records = [clip(worlds, 0, index, 3) for index in range(20)]
    kinds = {question["kind"] for record in records for question in record["questions"]}
    assert kinds == {kind for world in worlds for kind in ASKED[world]}
    assert all(len(record["questions"]) <= 3 for record in records)
    assert records == [clip(worlds, 0, index, 3) for index in range(20)]


def test_the_record_of_a_take_does_not_reveal_its_answer():
    records = [clip(("ego",), 0, index, 6) for index in range(40)]
    asked = [question for record in records for question in record["questions"]]
    assert {question["answer"] for question in asked} == {"one", "two", "three", "four"}
    assert len({question["text"] for question in asked}) == 1
    for record in records:
        seen = json.dumps([record["id"], record["media"]]).casefold()
        levels = [*SKILLS, record["questions"][0]["answer"]]
        assert not any(level.casefold() in seen for level in levels)


def test_every_published_figure_is_next_to_a_row():
    for name, figures in PUBLISHED.items():
        assert figures.keys() <= {(row.modality, row.label) for row in TABLES[name](SEEDS)}


def test_an_interval_is_students():
    """Against a table of the 97.5 % quantile: 4.303 for two degrees of freedom."""
    middle, half = interval([1.0, 2.0, 4.0])
    assert middle == pytest.approx(7 / 3)
    assert half == pytest.approx(4.303 * math.sqrt(7 / 3) / math.sqrt(3), rel=2e-3)
    assert math.isnan(interval([1.0, 2.0])[1])  # of two seeds it would be twelve deviations wide
    _, half = interval([1.0, 2.0] * 6)  # 2.201 for eleven
    assert half == pytest.approx(2.201 * stdev([1.0, 2.0] * 6) / math.sqrt(12), rel=2e-2)


# Runs -------------------------------------------------------------------------------------------


def in_this_process(arguments: list[str], log: Path) -> int:
    """Run ``vlynx`` without a new process, whose imports take seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.argv = ["vlynx", *arguments]
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> tuple[Study, list[Row]]:
    """A study of a dozen clips, with two steps per run."""
    folder = tmp_path_factory.mktemp("study")
    study = Study(
        folder / "data", folder / "runs", clips=12, held_out=4, align_steps=2, tune_steps=2
    )
    rows = [
        plain("3d", [1], "zero-shot", "zero-shot"),
        plain("3d", [1], "LoRA-only", "lora-only"),
        plain("3d", [1], "PAVE", "pave"),
        aligned("3d", [1], "V-LynX"),
        *(row for row in together([1]) if row.label == "both"),
    ]
    prepare(study, rows)
    tunings = [tuning for row in rows for tuning in row.tunings]
    alignments = [alignment for tuning in tunings for alignment in tuning.alignments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)
        for each in dict.fromkeys((*alignments, *tunings)):
            assert in_this_process(each.command(study), study.runs / f"{each.name}.log") == 0
    return study, rows


@pytest.mark.slow
def test_a_failed_run_is_named_and_does_not_stop_the_others(studied):
    study, rows = studied
    bad = TuningRun("3d", 1, "raw", options=("--model.learning_rate=fast",))
    tunings = [bad, *(tuning for row in rows for tuning in row.tunings)]
    before = [tuning.result(study).stat().st_mtime_ns for tuning in tunings[1:]]
    assert execute(tunings, study, 2, "tunings") == ["tune/3d-raw-seed1"]
    assert "learning_rate" in (study.runs / "tune/3d-raw-seed1.log").read_text()
    assert before == [tuning.result(study).stat().st_mtime_ns for tuning in tunings[1:]]


def test_a_run_that_was_asked_to_stop_stops_the_study(study, monkeypatch):
    started = []
    monkeypatch.setattr(run, "run_module", lambda module, arguments, log: started.append(log) or 75)
    with pytest.raises(SystemExit) as end:
        execute([AlignmentRun("3d", seed) for seed in range(9)], study, 1, "stopped")
    assert end.value.code == 75 and len(started) == 1


@pytest.mark.slow
def test_finished_runs_with_other_arguments_are_reported(studied, capsys):
    study, _ = studied
    execute([AlignmentRun("3d", 1)], study, 1, "the same")
    assert "other arguments" not in capsys.readouterr().err
    execute([AlignmentRun("3d", 1, options=("--model.lora.rank=4",))], study, 1, "others")
    assert "1 finished runs had other arguments" in capsys.readouterr().err


@pytest.mark.slow
def test_finished_runs_that_are_older_than_their_alignment_are_reported(studied, capsys):
    study, _ = studied
    alignment = AlignmentRun("3d", 1)
    tuning = TuningRun("3d", 1, "aligned", (alignment,))
    assert not outdated(tuning, study)
    of, later = alignment.result(study), tuning.result(study).stat().st_mtime + 1
    before = of.stat()
    try:
        os.utime(of, (later, later))
        execute([tuning], study, 1, "anew")
        assert "older than an alignment that they use" in capsys.readouterr().err
    finally:
        os.utime(of, (before.st_atime, before.st_mtime))


def test_a_home_folder_in_the_arguments_does_not_make_another_run(study, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = AlignmentRun("3d", 1)
    run.result(study).parent.mkdir(parents=True)
    command = redact_paths(["vlynx", *run.command(study)])
    run.result(study).write_text(json.dumps({"provenance": {"command": command}}))
    assert str(tmp_path) not in str(command)
    assert not outdated(run, study)


def test_worlds_are_generated_for_modalities_that_give_guidance_alone(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(run, "generate_toyworld", lambda out, world, **_: made.append(world))
    study = Study(tmp_path / "data", tmp_path / "runs", clips=4, held_out=1)
    prepare(study, [aligned("3d", [1], "", guided_by="audio")])
    assert made == ["3d", "audio"]


# Report -----------------------------------------------------------------------------------------


def report_of(rows: list[Row], monkeypatch: pytest.MonkeyPatch, out: Path, study: Study) -> str:
    """RESULTS.md of a single table."""
    monkeypatch.setattr(report, "TABLES", {"modalities": lambda seeds: rows})
    write_report(out, study, [1])
    return (out / "RESULTS.md").read_text()


@pytest.mark.slow
def test_the_report_agrees_with_the_runs(studied, tmp_path, monkeypatch):
    study, rows = studied
    text = report_of(rows, monkeypatch, tmp_path, study)
    with (tmp_path / "results.csv").open() as file:
        lines = {(line["row"], line["modality"]): line for line in csv.DictReader(file)}
    methods = ("zero-shot", "LoRA-only", "PAVE", "V-LynX")
    assert set(lines) == {(m, "3d") for m in methods} | {("both", "audio"), ("both", "3d-gray")}
    for (_, modality), line in lines.items():
        answers = (study.runs / line["run"] / "predictions-val.jsonl").read_text().splitlines()
        said = [json.loads(answer) for answer in answers]
        said = [row for row in said if row["labels"]["modality"] == MODALITIES[modality].world]
        right = [row["prediction"] in row["references"] for row in said]
        assert float(line["accuracy all"]) == pytest.approx(100 * sum(right) / len(right), abs=0.01)
    trained = {row: int(line["trained"]) for (row, _), line in lines.items()}
    assert trained["zero-shot"] == 0
    assert trained["LoRA-only"] < min(trained["V-LynX"], trained["PAVE"])
    assert trained["V-LynX"] < trained["both"]  # has two vision adapters
    assert "| depth, Turbo colours | V-LynX |" in text and "ScanQA CIDEr 87.1" in text
    assert (tmp_path / "modalities.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_scores_are_kept_without_their_runs_and_rows(studied, tmp_path, monkeypatch, capsys):
    study, rows = studied
    text = report_of(rows, monkeypatch, tmp_path, study)
    scores = (tmp_path / "results.csv").read_text()
    assert "are kept" not in capsys.readouterr().err
    nowhere = Study(study.data, tmp_path / "no runs")
    assert report_of(rows, monkeypatch, tmp_path, nowhere) == text
    assert (tmp_path / "results.csv").read_text() == scores
    assert "6 scores of results.csv are kept" in capsys.readouterr().err
    assert "| PAVE |" not in report_of(rows[:1], monkeypatch, tmp_path, nowhere)
    assert (tmp_path / "results.csv").read_text() == scores


def test_tokens_of_no_use_are_counted_with_and_without_a_warning(study, tmp_path, monkeypatch):
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
    where = {"table": "modalities", "modality": "3d", "seed": 1, "trained": 9, "asked": 100}
    lines = [
        {**where, "row": row.label, "run": row.tunings[0].name, **figures}
        for row, figures in zip(rows, of, strict=True)
    ]
    write_csv(tmp_path / "results.csv", lines)
    text = report_of(rows, monkeypatch, tmp_path, study)
    assert "| of no use | 1 | 1 |" in text
    assert "| no better than unaligned | 0 | 1 |" in text and "| better | 0 | 1 |" in text
