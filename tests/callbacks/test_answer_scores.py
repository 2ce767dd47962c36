"""Tuning on a toy task through the command line: trained, asked, scored, written."""

import json
import sys
from pathlib import Path

import pytest

from tests.datamodules.conftest import write_scannet_scene
from vlynx_pl import cli

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
def data(tmp_path) -> Path:
    root = tmp_path / "data"
    for number in range(3):
        write_scannet_scene(root / "scans" / f"scene000{number}_00", range(4))
    for split, scenes in (("train", "01"), ("val", "2"), ("test_w_obj", "29")):
        records = [
            {
                "scene_id": f"scene000{scene}_00",
                "question_id": f"{split}-{scene}-{i}",
                "question": f"What colour is the {thing}?",
                "answers": ["grey"],
                "object_ids": [],
                "object_names": [],
            }
            for scene in scenes
            for i, thing in enumerate(("wall", "floor"))
        ]
        (root / f"ScanQA_v1.0_{split}.json").write_text(json.dumps(records))
    return root


@pytest.fixture
def options(data) -> list[str]:
    return [
        "--config=experiments/backbones/miniature.yaml",
        "--config=experiments/tune/scanqa.yaml",
        f"--data.root={data}",
        f"--data.benchmark.init_args.annotations={data}",
        "--data.num_workers=0",
        "--model.modalities={3d: null}",
        "--trainer.max_epochs=8",
        "--trainer.logger=false",
    ]


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
    right = sum(row["prediction"] == "grey" for row in rows)
    assert scores["scanqa/em1"] == pytest.approx(50 * right)
    assert (run / "adapters" / "llm-scanqa" / "adapter_model.safetensors").is_file()

    # The test split names a scene that is not there: its questions are failed ones.
    adapter = f"--model.llm_adapter={run / 'adapters' / 'llm-scanqa'}"
    skipping = ["--data.on_bad_sample=skip", "--data.max_bad_share=1"]
    assert vlynx("test", *options, *skipping, adapter, f"--run={tmp_path / 'test'}") == 0
    scores = json.loads((tmp_path / "test" / "scores-test.json").read_text())
    assert scores["scanqa/n_total"] == 4 and scores["scanqa/n_failed"] == 2
    assert scores["scanqa/em1"] == pytest.approx(25 * right)
    assert scores["scanqa/em1_answered"] == pytest.approx(50 * right)


def test_a_finished_run_is_not_written_into_again(vlynx, options, tmp_path, capsys):
    (tmp_path / "scores-val.json").write_text("{}")
    assert vlynx("fit", *options, f"--run={tmp_path}") == 1
    assert "already holds a finished run" in capsys.readouterr().err
