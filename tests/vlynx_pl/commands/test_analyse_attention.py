"""``vlynx analyse attention`` on small labelled scenes, and on runs that nobody fitted."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.samples import Episode
from tests.datamodules.conftest import write_scannet_scenes
from tests.vlynx_pl.conftest import config_of, load_miniature, randomise
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.analysis.attention_maps import TEXTS
from vlynx_pl.commands.analyse.attention import choose
from vlynx_pl.io.errors import UserError
from vlynx_pl.questions import Question

TUNED, BASE = "as tuned", "base encoder"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Scenes with two objects each, ScanQA's questions about them, and adapters."""
    root = tmp_path_factory.mktemp("world")
    write_scannet_scenes(root, 3)
    records = []
    for scene in sorted((root / "scans").iterdir()):
        (scene / "instance-filt").mkdir()
        for frame in (scene / "color").iterdir():
            labels = np.zeros((24, 32), np.uint8)
            labels[:12, :16], labels[20:, 28:] = 1, 2  # a quarter of the frame, and a corner
            Image.fromarray(labels).save(scene / "instance-filt" / f"{frame.stem}.png")
        texts = ("What colour is the red object?", "How many objects are there?")
        for text, objects in zip(texts, ([0], [0, 1]), strict=True):
            record = {"scene_id": scene.name, "question": text, "answers": ["grey"]}
            name = f"{scene.name} {len(objects)}"
            records.append(record | {"question_id": name, "object_ids": objects})
    (root / "ScanQA_v1.0_val.json").write_text(json.dumps(records))
    backbone = load_miniature()
    backbone.add_vision_adapter("3d", Lora(4, 8))
    randomise(backbone.vision_adapters, "3d", 0.2)
    save_adapter(backbone.vision_adapters, "3d", root / "vision-3d")
    backbone.add_llm_adapter("qa", Lora(4, 16))
    randomise(backbone.llm_adapters, "qa", 0.05)
    save_adapter(backbone.llm_adapters, "qa", root / "llm-qa")
    return root


@pytest.fixture
def run_on(world, tmp_path):
    """Writes a tuned run: (name, aligned, data settings) → folder."""

    def write(name="run", aligned=True, root=world, **settings):
        folder = tmp_path / name
        shutil.copytree(world / "llm-qa", folder / "adapters" / "llm-qa")
        made = {"root": str(root), "test_split": "val", "frames": 2, "num_workers": 0} | settings
        config = config_of("DepthDataModule", "3d", **made)
        benchmark = {"annotations": str(world)}
        config["data"]["init_args"]["benchmark"] = {
            "class_path": "datamodules.benchmarks.ScanQA",
            "init_args": benchmark,
        }
        if aligned:
            streams = config["model"]["init_args"]["streams"]["init_args"]
            streams["modalities"] = {"3d": str(world / "vision-3d")}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return write


def analysed(run):
    return json.loads((run / "analysis" / "attention.json").read_text())


def test_shares_lifts_and_pictures_with_and_without_alignment(vlynx, run_on):
    run = run_on()
    code, said = vlynx("analyse", "attention", run, "--questions=4", "--layers=2")
    assert code == 0, said
    found = analysed(run)
    assert len(found["questions"]) == 4
    assert len({one["clip"] for one in found["questions"]}) == 3
    pictures = sorted(path.name for path in (run / "analysis").glob("*.png"))
    assert pictures == [f"attention-{n}.png" for n in (1, 2, 3, 4)]
    for one in found["questions"]:
        assert one["references"] == ["grey"]
        assert list(one["ways"]) == [TUNED, BASE]
        for way in one["ways"].values():
            assert list(way["shares"]) == ["video", "3d", *TEXTS]
            torch.testing.assert_close(
                torch.tensor([*way["shares"].values()]).sum(0), torch.ones(4)
            )
            assert bool(way["lift"]) == one["id"].endswith(" 1"), "one question names all objects"
            for lifts in way["lift"].values():
                whole = sum(
                    area * torch.tensor(lifts[region])
                    for region, area in {
                        "named": 1 / 4,
                        "others": 1 / 48,
                        "background": 35 / 48,
                    }.items()
                )
                torch.testing.assert_close(whole, torch.ones(4))
    ways = found["questions"][0]["ways"]
    assert ways[TUNED]["shares"] != ways[BASE]["shares"]
    assert "3d: named" in said and "Lift" in (run / "analysis" / "attention.md").read_text()


def test_another_run_is_asked_the_same_questions(vlynx, run_on, tmp_path):
    run, other = run_on(), run_on("other", aligned=False)
    arguments = ("--questions=2", f"--against={other}", "--rows=last", f"--out={tmp_path}/out")
    code, said = vlynx("analyse", "attention", run, *arguments)
    assert code == 0, said
    found = json.loads((tmp_path / "out" / "attention.json").read_text())
    for one in found["questions"]:
        assert list(one["ways"]) == [TUNED, BASE, str(other)]
        assert one["ways"][BASE] == one["ways"][str(other)], "they differ in the adapter alone"
    longer = run_on("longer", frames=3)
    code, said = vlynx("analyse", "attention", run, "--questions=1", f"--against={longer}")
    assert code == 1
    assert "longer reads other frames of scene000" in said


def test_without_adapters_and_labels_there_is_one_way_and_no_lift(vlynx, run_on, world, tmp_path):
    root = tmp_path / "unlabelled"
    shutil.copytree(world / "scans", root / "scans")
    for labels in root.glob("scans/*/instance-filt"):
        shutil.rmtree(labels)
    run = run_on(aligned=False, root=root)
    code, said = vlynx("analyse", "attention", run, "--questions=1", "--rows=RED")
    assert code == 0, said
    [one] = analysed(run)["questions"]
    assert list(one["ways"]) == [TUNED]
    assert one["ways"][TUNED]["lift"] == {}
    assert one["question"] == "What colour is the red object?"
    assert "Lift" not in said


def test_labels_of_another_size_are_refused(vlynx, run_on, world, tmp_path):
    root = tmp_path / "small"
    shutil.copytree(world / "scans", root / "scans")
    for path in root.glob("scans/*/instance-filt/*.png"):
        Image.open(path).resize((16, 12)).save(path)
    run = run_on(root=root)
    code, said = vlynx("analyse", "attention", run)
    assert code == 1
    assert "has 16 × 12 pixels" in said and "remove instance-filt/ to do without" in said
    assert not (run / "analysis").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--layers=0", "has layers 1 to 4; give some of them"),
        ("--layers=a", "--layers a: give numbers of layers, such as 1,2"),
        ("--rows=purple", "--rows purple: no question has this word"),
    ],
)
def test_options_that_fit_nothing_are_refused(vlynx, run_on, option, message):
    code, said = vlynx("analyse", "attention", run_on(), option)
    assert code == 1
    assert message in " ".join(said.split())


def test_questions_are_of_as_many_clips_as_possible_and_do_not_depend_on_the_order():
    episodes = [
        Episode(
            f"clip {i}", {}, tuple(Question(f"{i}-{k}", f"Is {k} red?", ()) for k in range(1 + i))
        )
        for i in range(4)
    ]
    chosen = choose(episodes, 6, "words")
    assert len({episode.name for episode, _ in chosen[:4]}) == 4
    assert len({question.id for _, question in chosen}) == 6
    assert {q.id for _, q in choose(episodes[::-1], 6, "last")} == {q.id for _, q in chosen}
    assert [question.id for _, question in choose(episodes, 9, "3")] == ["3-3"]
    with pytest.raises(UserError, match="--rows blue: no question has this word"):
        choose(episodes, 1, "blue")
