"""Tuning on a toy task through the command line: trained, asked, scored, written."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbacks.kept_answers import KeptAnswers
from tests.conftest import replace_meteor
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics import Answered, captions
from vlynx_pl.tuning import InstructionTuning


@pytest.fixture
def options(scanqa) -> list[str]:
    return [
        *scanqa,
        "--data.frames=4",
        "--trainer.max_epochs=8",
    ]


def test_a_task_is_tuned_asked_and_scored(vlynx, options, tmp_path):
    run = tmp_path / "run"
    code, printed = vlynx("fit", *options, f"--run={run}")
    assert code == 0 and "scanqa/cider" in printed
    scores = json.loads((run / "scores-val.json").read_text())
    assert scores["scanqa/n_total"] == 2 and scores["scanqa/n_failed"] == 0
    assert scores["intervals"] == {} and "intervals need two clips" in printed
    rows = [json.loads(line) for line in (run / "predictions-val.jsonl").open()]
    assert [row["id"] for row in rows] == ["val-2-0", "val-2-1"]
    assert rows[0]["question"] == "What colour is the wall?" and rows[0]["references"] == ["grey"]
    assert set(rows[0]["times"]) == {"video", "3d"}
    assert rows[0]["settings"]["max_new_tokens"] == 32
    assert rows[0]["settings"]["modalities"] == {"3d": "base"}
    right = sum(row["prediction"] == "grey" for row in rows)
    assert scores["scanqa/em1"] == pytest.approx(50 * right)
    assert (run / "adapters" / "llm-scanqa" / "adapter_model.safetensors").is_file()
    card = (run / "adapters" / "llm-scanqa" / "README.md").read_text()
    assert f"| `scanqa/em1` | {50 * right:.2f} |" in card and "| without 3d |" in card
    assert (run / "answers-val.png").read_bytes().startswith(b"\x89PNG")

    # The test split names a missing scene, whose questions count as failed.
    adapter = f"--model.llm_adapter={run / 'adapters' / 'llm-scanqa'}"
    skipping = ["--data.on_bad_sample=skip", "--data.max_bad_share=1"]
    asking = ["--trainer.callbacks+=callbacks.AnswerScores", "--trainer.callbacks.baseline=true"]
    own = *skipping, *asking, adapter, f"--run={tmp_path / 'test'}"
    code, printed = vlynx("test", *options, *own)
    assert code == 0, printed
    scores = json.loads((tmp_path / "test" / "scores-test.json").read_text())
    assert scores["scanqa/n_total"] == 4 and scores["scanqa/n_failed"] == 2
    assert scores["scanqa/em1"] == pytest.approx(25 * right)
    assert scores["scanqa/em1_answered"] == pytest.approx(50 * right)
    low, high = scores["intervals"]["scanqa/em1"]
    assert low == 0 and high == pytest.approx(50 * right)
    assert scores["probe"]["untuned backbone"]["questions"] == 4

    # One clip has no other clip's streams.
    code, printed = vlynx("probe", run)
    assert code == 0 and "without 3d" in printed, printed
    found = json.loads((run / "probe" / "scores-val.json").read_text())
    val = json.loads((run / "scores-val.json").read_text())
    assert found["scanqa/cider"] == val["scanqa/cider"]
    assert [way for way in val["probe"] if " " in way] == ["without 3d", "without video"]
    code, printed = vlynx("probe", run, "--model.streams.modalities={}", f"--run={tmp_path / 'x'}")
    assert code == 1 and "was tuned on" in printed


def test_the_baseline_is_refused_where_the_video_is_reduced(vlynx, options, tmp_path):
    asking = ["--trainer.callbacks+=callbacks.AnswerScores", "--trainer.callbacks.baseline=true"]
    own = "--model.streams.keep={video: 4}", f"--run={tmp_path / 'run'}"
    code, printed = vlynx("fit", *options, *asking, *own)
    assert code == 1
    assert "the baseline reads all tokens of the video, of which this run keeps some" in printed


@pytest.mark.parametrize(("setting", "fits"), [("far_mm=4000", False), ("frames=3", True)])
def test_an_adapter_reads_frames_drawn_as_those_it_was_aligned_on(
    vlynx, backbone, options, tmp_path, setting, fits
):
    drawing = {"encoding": "turbo", "near_mm": 200.0, "far_mm": 10000.0}
    backbone.add_vision_adapter("3d", Lora(2, 128))
    made_with = {"fingerprint": backbone.fingerprint, "drawing": {"3d": drawing}}
    save_adapter(backbone.vision_adapters, "3d", tmp_path / "vision-3d", made_with)
    own = [f"--model.streams.modalities={{3d: {tmp_path / 'vision-3d'}}}", f"--data.{setting}"]
    code, printed = vlynx("fit", *options, *own, "--trainer.fast_dev_run=true")
    assert code == (0 if fits else 1)
    assert ("modality '3d' was aligned on frames drawn with" in printed) != fits


def test_a_failed_figure_costs_no_other_and_the_same_command_computes_it(
    vlynx, options, data, tmp_path, monkeypatch
):
    def broken(hypotheses, references):
        raise UserError("METEOR failed. Mend it")

    asked, answers = [], InstructionTuning.answers
    monkeypatch.setattr(
        InstructionTuning, "answers", lambda self, e: asked.append(e["name"]) or answers(self, e)
    )
    monkeypatch.setattr(captions, "meteor", broken)
    (data / "ScanQA_v1.0_test_w_obj.json").unlink()  # as for benchmarks that keep its answers back
    run = tmp_path / "run"
    command = "test", *options, "--data.test_split=val", f"--run={run}"
    code, printed = vlynx(*command)
    assert code == 1
    assert "scanqa/meteor could not be computed: METEOR failed. Mend it" in printed
    assert "the same command again" in printed and "vlynx score" in printed
    assert "scanqa/cider" in printed
    scores = json.loads((run / "scores-val.json").read_text())
    assert scores["failed"] == {"scanqa/meteor": "METEOR failed. Mend it"}
    assert scores["scanqa/n_total"] == 2 and scores["scanqa/cider"] >= 0
    assert "scanqa/meteor" not in scores and (run / "predictions-val.jsonl").is_file()
    replace_meteor(monkeypatch)
    assert vlynx(*command)[0] == 0
    whole = json.loads((run / "scores-val.json").read_text())
    assert whole["scanqa/meteor"] == 50 and whole["scanqa/cider"] == scores["scanqa/cider"]
    assert "failed" not in whole and asked == ["scene0002_00"]
    code, printed = vlynx(*command)
    assert code == 1 and "finished run" in printed


def test_a_question_that_structures_the_prompt_fails_alone(vlynx, options, data, tmp_path):
    """It stops a test. If it is skipped, it counts as failed and the clip's other one does not."""
    path = data / "ScanQA_v1.0_val.json"
    path.write_text(path.read_text().replace("the wall?", "the <image>?"))
    command = "test", *options, "--data.test_split=val", f"--run={tmp_path / 'run'}"
    message = f"{path}: question 'val-2-0' contains '<image>', which structures the prompt"
    code, printed = vlynx(*command)
    assert code == 1 and message in printed
    assert vlynx(*command, "--data.on_bad_sample=skip", "--data.max_bad_share=1")[0] == 0
    scores = json.loads((tmp_path / "run" / "scores-val.json").read_text())
    assert scores["scanqa/n_total"] == 2 and scores["scanqa/n_failed"] == 1
    code, printed = vlynx("check", *options)
    assert code == 1 and "question" in printed


def said(number, **fields):
    return Answered(f"{number}", "a dög\n", ("a dog",), times={"video": [0.0, 0.5]}, **fields)


def test_kept_answers_are_those_of_all_ranks_with_the_same_settings(tmp_path):
    made_with = {"tokens": 3, "frames": (1, 2)}
    for rank in range(3):
        KeptAnswers(tmp_path, "val", made_with, rank).keep([said(rank), said(rank + 10)])
    KeptAnswers(tmp_path, "test", made_with).keep([said("another split")])
    KeptAnswers(tmp_path, "val", {"tokens": 4}, 3).keep([said("other settings")])
    kept = KeptAnswers(tmp_path, "val", made_with)
    assert kept.read() == {f"{n}": said(n) for n in (0, 10, 1, 11, 2, 12)}
    [other] = kept.remove_others()
    assert other.name.endswith(".3.unfinished.jsonl") and len(kept.read()) == 6
    kept.remove()
    assert [path.name.partition(".")[0] for path in tmp_path.iterdir()] == ["answers-test"]


@given(st.data())
def test_only_an_answer_cut_off_by_a_kill_is_asked_again(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("kept")
    kept = KeptAnswers(folder, "val", {"tokens": 3})
    ends = []
    for number in range(3):
        kept.keep([said(number)])
        [file] = folder.iterdir()
        ends.append(file.stat().st_size)
    end = data.draw(st.integers(0, ends[-1]))
    os.truncate(file, end)
    again = KeptAnswers(folder, "val", {"tokens": 3})
    known = again.read()
    # The last byte of an answer ends its line, and may be missing.
    assert list(known) == [f"{n}" for n in range(3) if ends[n] - 1 <= end]
    again.keep([said("new")])
    assert again.read() == known | {"new": said("new")}
