"""Tuning with fewer tokens through the command line: measured before the fit, saved with it."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from callbacks import usual_tokens
from vlynx_pl.commands.asking import open_run


@pytest.fixture
def options(scanqa) -> list[str]:
    return [
        *scanqa,
        "--data.frames=2",
        "--model.streams.keep={3d: 0.25, video: 4}",
        "--trainer.max_epochs=1",
    ]


def test_a_run_measures_what_is_usual_and_keeps_it_with_its_adapters(
    vlynx, options, data, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    store = [
        "--trainer.callbacks+=callbacks.KeepTokens",
        f"--trainer.callbacks.folder={tmp_path}/t",
    ]
    code, printed = vlynx("fit", *options, *store, f"--run={run}")
    assert code == 0, printed
    [usual] = load_file(run / "usual.safetensors").values()
    module, _ = open_run(run)
    saved = run / "adapters" / "usual.safetensors"
    assert torch.equal(load_file(saved)["3d"], usual)
    assert torch.equal(module.streams.reduction.usual["3d"], usual)
    assert usual.shape == (16, 160) and usual.std() > 0
    made_with = json.loads((run / "adapters" / "llm-scanqa" / "made_with.json").read_text())
    assert made_with["reads"] == module.streams.reads()
    kept = [load_file(path) for path in (tmp_path / "t").rglob("*.safetensors")]
    sizes = sorted((name, len(each)) for entry in kept for name, each in entry.items())
    assert ("3d", 8) in sizes and ("3d kept", 2) in sizes and ("video", 8) in sizes

    monkeypatch.setenv("COLUMNS", "200")
    scene = data / "scans" / "scene0000_00"
    code, printed = vlynx("ask", f"--run={run}", f"--depth={scene}", "What is it?")
    assert code == 0 and re.search(r"3d +│ +2 +│.*│ +8 +│", printed), printed

    # A run that was stopped reads what it measured.
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(run / "usual.safetensors", again)
    monkeypatch.setattr(usual_tokens, "_measure", lambda *_: pytest.fail("measured anew"))
    code, printed = vlynx("fit", *options, f"--run={again}")
    assert code == 0, printed

    # An evaluation reads the same tokens, and no others.
    adapter = f"--model.llm_adapter={run / 'adapters' / 'llm-scanqa'}"
    asked = [*options, adapter, "--data.test_split=val", f"--run={tmp_path / 'test'}"]
    code, printed = vlynx("test", *asked, "--model.streams.keep={3d: 0.5, video: 4}")
    assert code == 1 and "was tuned on" in printed
    code, printed = vlynx("test", *asked)
    assert code == 0 and "without 3d" in printed, printed
    first, second = (
        [json.loads(row)["prediction"] for row in (folder / "predictions-val.jsonl").open()]
        for folder in (run, tmp_path / "test")
    )
    assert first == second
