"""Tuning on a toy task through the command line: trained, asked, scored, written."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from callbacks.kept_answers import KeptAnswers
from datamodules.loading.reading import ReadEpisode
from tests.conftest import REPOSITORY
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.commands import cli
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import PREEMPTED, forget_signals
from vlynx_pl.metrics import Answered, captions
from vlynx_pl.tuning import InstructionTuning


@pytest.fixture
def vlynx(monkeypatch):
    monkeypatch.chdir(REPOSITORY)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["vlynx", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        return int(done.value.code or 0)

    return run


@pytest.fixture
def quick_meteor(monkeypatch):
    """The real one loads its paraphrases for ten seconds."""
    monkeypatch.setattr(captions, "meteor", lambda hypotheses, references: 0.5)


@pytest.fixture
def options(data) -> list[str]:
    return [
        "--config=experiments/backbones/miniature.yaml",
        "--config=experiments/tune/scanqa.yaml",
        "--config=experiments/tune/backbones/miniature.yaml",
        "--config=experiments/tune/toyworld/scanqa.yaml",
        f"--data.root={data}",
        f"--data.benchmark.init_args.annotations={data}",
        "--data.num_workers=0",
        "--data.frames=4",
        "--model.streams.modalities={3d: base}",
        "--trainer.max_epochs=8",
        "--trainer.logger=false",
    ]


def rows_of_frames(sheet: Path) -> int:
    """How many answers have frames beside them; those of these scenes are all dark or coloured."""
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width == 1600
        right = np.array(picture.convert("RGB"))[:, 1110:1325].astype(int)  # two of depth
    share = (right.min(-1) < 230).mean(1)  # of each line, of what is neither white nor a note
    drawn = (share > 0.9) & (share < 1)  # the bars over the blocks have no gaps
    return int((np.diff(drawn.astype(int)) == 1).sum())


def test_a_task_is_tuned_asked_and_scored(vlynx, options, tmp_path, capsys, quick_meteor):
    run = tmp_path / "run"
    assert vlynx("fit", *options, f"--run={run}") == 0
    scores = json.loads((run / "scores-val.json").read_text())
    assert scores["scanqa/n_total"] == 2 and scores["scanqa/n_failed"] == 0
    assert "scanqa/cider" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "predictions-val.jsonl").open()]
    assert [row["id"] for row in rows] == ["val-2-0", "val-2-1"]
    assert rows[0]["question"] == "What colour is the wall?" and rows[0]["references"] == ["grey"]
    assert set(rows[0]["times"]) == {"video", "3d"}
    assert rows[0]["settings"]["max_new_tokens"] == 32
    assert rows[0]["settings"]["modalities"] == {"3d": "base"}
    right = sum(row["prediction"] == "grey" for row in rows)
    assert scores["scanqa/em1"] == pytest.approx(50 * right)
    assert (run / "adapters" / "llm-scanqa" / "adapter_model.safetensors").is_file()
    assert rows_of_frames(run / "answers-val.png") == 2

    # The test split names a scene that is not there: its questions are failed ones.
    adapter = f"--model.llm_adapter={run / 'adapters' / 'llm-scanqa'}"
    skipping = ["--data.on_bad_sample=skip", "--data.max_bad_share=1"]
    assert vlynx("test", *options, *skipping, adapter, f"--run={tmp_path / 'test'}") == 0
    scores = json.loads((tmp_path / "test" / "scores-test.json").read_text())
    assert scores["scanqa/n_total"] == 4 and scores["scanqa/n_failed"] == 2
    assert scores["scanqa/em1"] == pytest.approx(25 * right)
    assert scores["scanqa/em1_answered"] == pytest.approx(50 * right)
    assert rows_of_frames(tmp_path / "test" / "answers-test.png") == 2


@pytest.fixture
def signals():
    """As they were, after a run has noted some."""
    wanted = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in wanted]
    yield
    for number, handler in zip(wanted, before, strict=True):
        signal.signal(number, handler)
    forget_signals()


def test_val_is_asked_where_the_answers_of_test_are_kept_back_and_goes_on_when_stopped(
    vlynx, options, data, tmp_path, monkeypatch, signals, quick_meteor
):
    asked, answers = [], InstructionTuning.answers
    read, load = [], ReadEpisode.__call__

    def answering(self, episode):
        asked.append(episode["name"])
        os.kill(os.getpid(), signal.SIGTERM)
        return answers(self, episode)

    def loading(self, media):
        loaded = load(self, media)
        read.append(list(loaded["streams"]))
        return loaded

    (data / "ScanQA_v1.0_test_w_obj.json").unlink()
    monkeypatch.setattr(InstructionTuning, "answers", answering)
    command = "test", *options, "--data.test_split=val", f"--run={tmp_path / 'run'}"
    assert vlynx(*command) == PREEMPTED
    forget_signals()
    assert [path.name for path in (tmp_path / "run").glob("*unfinished*")] == [
        "answers-val.0.unfinished.jsonl"
    ]
    monkeypatch.setattr(ReadEpisode, "__call__", loading)
    assert vlynx(*command) == 0
    assert asked == ["scene0002_00"]
    assert read == [[], ["video", "3d"]], "not read to be asked, but to be shown"
    scores = json.loads((tmp_path / "run" / "scores-val.json").read_text())
    assert scores["scanqa/n_total"] == 2 and scores["scanqa/n_failed"] == 0
    assert not list((tmp_path / "run").glob("*unfinished*"))


@pytest.mark.parametrize("setting", ["encoding=gray", "far_mm=4000", "frames=3"])
def test_an_adapter_reads_pictures_drawn_as_it_was_aligned_on(
    vlynx, backbone, options, tmp_path, setting, capsys
):
    drawing = {"encoding": "turbo", "near_mm": 200.0, "far_mm": 10000.0}
    backbone.add_vision_adapter("3d", Lora(2, 128))
    made_with = {"fingerprint": backbone.fingerprint, "drawing": {"3d": drawing}}
    save_adapter(backbone.vision_adapters, "3d", tmp_path / "vision-3d", made_with)
    given = [
        *options,
        f"--model.streams.modalities={{3d: {tmp_path / 'vision-3d'}}}",
        f"--data.{setting}",
    ]
    fits = setting == "frames=3"  # how many pictures is no matter
    given.append("--trainer.fast_dev_run=true")
    assert vlynx("fit", *given, f"--run={tmp_path / 'run'}") == (0 if fits else 1)
    said = capsys.readouterr().err
    assert ("modality '3d' was aligned on frames drawn with" in said) != fits


def test_a_finished_run_is_not_written_into_again(vlynx, options, tmp_path, capsys):
    (tmp_path / "scores-val.json").write_text("{}")
    assert vlynx("fit", *options, f"--run={tmp_path}") == 1
    assert "already holds a finished run" in capsys.readouterr().err


def test_a_figure_that_fails_costs_no_other_and_is_fetched_by_the_same_command(
    vlynx, options, tmp_path, monkeypatch, capsys
):
    def broken(hypotheses, references):
        raise UserError("METEOR failed. Mend it")

    asked, answers = [], InstructionTuning.answers
    monkeypatch.setattr(
        InstructionTuning, "answers", lambda self, e: asked.append(e["name"]) or answers(self, e)
    )
    monkeypatch.setattr(captions, "meteor", broken)
    run = tmp_path / "run"
    command = "test", *options, "--data.test_split=val", f"--run={run}"
    assert vlynx(*command) == 1
    told = capsys.readouterr()
    assert "scanqa/meteor could not be computed: METEOR failed. Mend it" in told.err
    assert "the same command again" in told.err and "vlynx score" in told.err
    assert "scanqa/cider" in told.out and "failed" in told.out
    scores = json.loads((run / "scores-val.json").read_text())
    assert scores["failed"] == {"scanqa/meteor": "METEOR failed. Mend it"}
    assert scores["scanqa/n_total"] == 2 and scores["scanqa/cider"] >= 0
    assert "scanqa/meteor" not in scores and (run / "predictions-val.jsonl").is_file()
    monkeypatch.setattr(captions, "meteor", lambda hypotheses, references: 0.5)
    assert vlynx(*command) == 0
    whole = json.loads((run / "scores-val.json").read_text())
    assert whole["scanqa/meteor"] == 50 and whole["scanqa/cider"] == scores["scanqa/cider"]
    assert "failed" not in whole and asked == ["scene0002_00"]
    assert vlynx(*command) == 1 and "finished run" in capsys.readouterr().err


def test_a_question_that_holds_structure_fails_alone(
    vlynx, options, data, tmp_path, capsys, quick_meteor
):
    """It stops a test; where it is skipped, it counts as failed, and its clip's other one not."""
    path = data / "ScanQA_v1.0_val.json"
    path.write_text(path.read_text().replace("the wall?", "the <image>?"))
    command = "test", *options, "--data.test_split=val", f"--run={tmp_path / 'run'}"
    message = f"{path}: question 'val-2-0' holds '<image>', which structures the prompt"
    assert vlynx(*command) == 1 and message in capsys.readouterr().err
    assert vlynx(*command, "--data.on_bad_sample=skip", "--data.max_bad_share=1") == 0
    scores = json.loads((tmp_path / "run" / "scores-val.json").read_text())
    assert scores["scanqa/n_total"] == 2 and scores["scanqa/n_failed"] == 1
    assert vlynx("check", *options) == 1
    assert "question" in capsys.readouterr().out


def said(number, **fields):
    return Answered(f"{number}", "a dög\n", ("a dog",), times={"video": [0.0, 0.5]}, **fields)


def test_kept_answers_are_those_of_all_processes_with_these_settings(tmp_path):
    made_with = {"tokens": 3, "frames": (1, 2)}
    for rank in range(3):
        KeptAnswers(tmp_path, "val", made_with, rank).keep([said(rank), said(rank + 10)])
    KeptAnswers(tmp_path, "test", made_with).keep([said("another split")])
    KeptAnswers(tmp_path, "val", {"tokens": 4}, 3).keep([said("other settings")])
    kept = KeptAnswers(tmp_path, "val", made_with)
    assert kept.read() == {f"{n}": said(n) for n in (0, 10, 1, 11, 2, 12)}
    assert [path.name for path in kept.remove_others()] == ["answers-val.3.unfinished.jsonl"]
    assert len(kept.read()) == 6
    kept.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["answers-test.0.unfinished.jsonl"]


@given(st.data())
def test_what_a_kill_left_half_written_is_asked_again_and_nothing_else(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("kept")
    kept = KeptAnswers(folder, "val", {"tokens": 3})
    ends = [0]
    for number in range(3):
        kept.keep([said(number)])
        ends.append((folder / "answers-val.0.unfinished.jsonl").stat().st_size)
    end = data.draw(st.integers(0, ends[-1]))
    os.truncate(folder / "answers-val.0.unfinished.jsonl", end)
    again = KeptAnswers(folder, "val", {"tokens": 3})
    # The last byte is a line's end, which nothing hangs on.
    assert list(again.read()) == [f"{n}" for n in range(3) if ends[n + 1] - 1 <= end]
    known = again.read()
    again.remove_others()
    again.keep([said("new")])
    assert again.read() == known | {"new": said("new")}
