"""Tuning on a toy task through the command line: trained, asked, scored, written."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks import AnswerScores
from datamodules.samples import Episode, Question
from vlynx_pl import cli
from vlynx_pl.adapters import save_adapter
from vlynx_pl.tuning import InstructionTuning

REPOSITORY = Path(__file__).parents[2]


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
def options(data) -> list[str]:
    return [
        "--config=experiments/backbones/miniature.yaml",
        "--config=experiments/tune/scanqa.yaml",
        "--config=experiments/tune/toyworld/scanqa.yaml",
        f"--data.root={data}",
        f"--data.benchmark.init_args.annotations={data}",
        "--data.num_workers=0",
        "--data.frames=4",
        "--model.modalities={3d: null}",
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


def test_a_task_is_tuned_asked_and_scored(vlynx, options, tmp_path, capsys):
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
    assert rows[0]["settings"]["modalities"] == {"3d": None}
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


def test_val_is_asked_where_the_answers_of_test_are_kept_back(vlynx, options, data, tmp_path):
    (data / "ScanQA_v1.0_test_w_obj.json").unlink()
    assert vlynx("test", *options, "--data.test_split=val", f"--run={tmp_path / 'run'}") == 0
    scores = json.loads((tmp_path / "run" / "scores-val.json").read_text())
    assert scores["scanqa/n_total"] == 2


@pytest.mark.parametrize("setting", ["encoding=gray", "far_mm=4000", "frames=3"])
def test_an_adapter_reads_pictures_drawn_as_it_was_aligned_on(
    vlynx, backbone, options, tmp_path, setting, capsys
):
    drawing = {"encoding": "turbo", "near_mm": 200.0, "far_mm": 10000.0}
    backbone.add_vision_adapter("3d", rank=2)
    made_with = {"fingerprint": backbone.fingerprint, "drawing": {"3d": drawing}}
    save_adapter(backbone.vision_adapters, "3d", tmp_path / "vision-3d", made_with)
    given = [*options, f"--model.modalities={{3d: {tmp_path / 'vision-3d'}}}", f"--data.{setting}"]
    fits = setting == "frames=3"  # how many pictures is no matter
    given.append("--trainer.fast_dev_run=true")
    assert vlynx("fit", *given, f"--run={tmp_path / 'run'}") == (0 if fits else 1)
    said = capsys.readouterr().err
    assert ("modality '3d' was aligned on pictures drawn with" in said) != fits


def test_a_finished_run_is_not_written_into_again(vlynx, options, tmp_path, capsys):
    (tmp_path / "scores-val.json").write_text("{}")
    assert vlynx("fit", *options, f"--run={tmp_path}") == 1
    assert "already holds a finished run" in capsys.readouterr().err


class Rooms:
    """A data module of one clip that was asked about, and of one whose media are bad."""

    test_split = "test"

    def __init__(self) -> None:
        self.read: list[tuple[str, list[str]]] = []

    def unusable(self, part):
        asked = Question("2", "What is it?", ("B",), labels={"task": "Audio"})
        return [Episode("broken", {}, (asked,))]

    def loaded(self, part, names):
        self.read.append((part, list(names)))
        return {
            "room": {
                "streams": {"video": torch.zeros(2, 3, 8, 8).byte()},
                "times": {"video": (0.0, 1.0)},
            }
        }


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_rank_reads_frames_again_and_draws(backbone, tmp_path, first):
    trainer = SimpleNamespace(
        is_global_zero=first,
        fast_dev_run=False,
        default_root_dir=tmp_path,
        logger=None,
        datamodule=Rooms(),
    )
    questions = [Question(i, "What is it?", ("A",), labels={"task": "Audio"}) for i in "01"]
    clip = {"name": "room", "times": {"video": (0.0, 1.0)}, "questions": questions}
    module, callback = InstructionTuning(backbone, "avut", rank=2), AnswerScores("AVUT")
    callback.on_test_batch_end(trainer, module, {"answers": [["A", "B"]]}, [clip], 0)
    callback.on_test_epoch_end(trainer, module)
    assert trainer.datamodule.read == ([("test", ["broken", "room"])] if first else [])
    assert (tmp_path / "answers-test.png").exists() == first
