"""Every command takes the tiny model of every family."""

import json

import pytest

from experiments.toyworld import generate_toyworld
from vlynx_pl.backbones import load_backbone
from vlynx_pl.backbones.tiny import TINY

QUICK = ("--data.num_workers=0", "--data.batch_size=2", "--trainer.max_steps=2")


@pytest.fixture(scope="module")
def toyworld(tmp_path_factory):
    root = tmp_path_factory.mktemp("toyworld")
    generate_toyworld(root, "3d", scenes=12)
    return root


@pytest.mark.parametrize("family", TINY)
def test_a_tiny_model_is_small_and_written_once(vlynx, family, tmp_path):
    folder = tmp_path / "tiny"
    assert vlynx("tiny", family, f"--out={folder}")[0] == 0
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    assert load_backbone(str(folder), "float32").model.config.model_type == family
    code, said = vlynx("tiny", family, f"--out={folder}")
    assert code == 1 and "exists; give a new folder" in said


def test_an_unknown_family_is_refused(vlynx, tmp_path):
    code, said = vlynx("tiny", "gpt2", f"--out={tmp_path / 'tiny'}")
    assert code == 1 and "no tiny model of 'gpt2'; give one of " in said


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_a_tiny_model_is_aligned_tuned_evaluated_and_asked(vlynx, family, toyworld, tmp_path):
    def run(*command):
        code, said = vlynx(*command)
        assert code == 0, said
        return said

    folder, aligned, tuned = (tmp_path / name for name in ("tiny", "aligned", "tuned"))
    run("tiny", family, f"--out={folder}")
    common = (f"--data={toyworld}", f"--backbone.path={folder}", *QUICK)
    run("align", "3d", *common, f"--run={aligned}")
    report = json.loads((aligned / "report.json").read_text())
    assert report["after"]["stat"] != report["before"]["stat"]
    tasks = (*common, f"--annotations={toyworld}", f"--aligned={aligned}")
    run("tune", "scanqa", *tasks, f"--run={tuned}")
    run("eval", "scanqa", *tasks, f"--tuned={tuned}")
    assert (tuned / "eval-scanqa" / "scores-val.json").is_file()
    scene = min((toyworld / "scans").iterdir())
    said = run("ask", "How far is the box?", f"--run={tuned}", f"--depth={scene}")
    assert "vision-3d" in "".join(said.split())  # of the table of streams
