"""The tasks for lmms-eval, whose files are loaded here in its place where it is not installed."""

import json
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
import yaml

from datamodules.benchmarks import (
    AVQA,
    AVSD,
    AVUT,
    SQA3D,
    EgoExo4D,
    MusicAVQA,
    ScanQA,
)
from datamodules.samples import BadSample
from tests.conftest import REPOSITORY
from tests.datamodules.benchmarks.official_layouts import (
    Official,
    avqa,
    avsd,
    avut,
    dialog,
    music,
    scanqa,
    sqa3d,
    take,
)
from tests.datamodules.conftest import write_scannet_scene
from tests.vlynx_pl.conftest import film
from vlynx_pl.commands.scoring import score
from vlynx_pl.io.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_meteor")

FOLDER = REPOSITORY / "vlynx_pl" / "commands" / "lmms_tasks"
SCENE = "scans/scene0990_00"
EGO = "takes/toy_a/frame_aligned_videos/aria01_214-1.mp4"

# Task → its benchmark's files, and the medium that its questions are about.
TASKS = {
    "scanqa": (
        Official(ScanQA, "val", {"ScanQA_v1.0_val.json": [scanqa(0), scanqa(1)]}),
        SCENE,
    ),
    "sqa3d": (Official(SQA3D, "test", sqa3d("What is left of me?", "Is it far?")), SCENE),
    "avsd": (
        Official(AVSD, "test", {"lbl_test_set4DSTC7-AVSD.json": avsd(dialog("AB12C", 3))}),
        "AB12C.mp4",
    ),
    "avqa": (Official(AVQA, "val", {"val_qa.json": [avqa(1, "a"), avqa(2, "a", 0)]}), "a.mp4"),
    "music_avqa": (
        Official(MusicAVQA, "test", {"avqa-test.json": [music(1), music(2)]}),
        "MUSIC-AVQA-videos-Real/00000007.mp4",
    ),
    "avut": (
        Official(AVUT, "test", {"AV_Human_data.json": [avut(0), avut(1, answer="D")]}),
        "data/toy.mp4",
    ),
    "egoexo": (
        Official(
            EgoExo4D, "val", {"proficiency_demonstrator_val.json": {"annotations": [take("a")]}}
        ),
        EGO,
    ),
}
each_task = pytest.mark.parametrize("name", TASKS)


class Loader(yaml.SafeLoader):
    """Reads a task as lmms-eval does."""


Loader.add_constructor("!function", lambda loader, node: resolve_name(node.value))


def loaded(name):
    task = yaml.load((FOLDER / f"{name}.yaml").read_text(), Loader)
    common = yaml.load((FOLDER / task.pop("include")).read_text(), Loader)
    assert not common.keys() & task.keys()
    return SimpleNamespace(**common, **task)


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A task, its documents, and the folders of its media and of its official files."""

    def open_task(name, **files):
        official, medium = TASKS[name]
        official._replace(files=official.files | files).open(tmp_path / "official")
        path = tmp_path / "media" / medium
        write_scannet_scene(path, range(30)) if medium == SCENE else film(path)
        if medium == EGO:
            film(path.with_name("cam01.mp4"))
        monkeypatch.setenv("VLYNX_DATA", str(tmp_path / "media"))
        monkeypatch.setenv("VLYNX_ANNOTATIONS", str(tmp_path / "official"))
        task = loaded(name)
        return task, task.process_docs(SimpleNamespace(from_list=list))

    return open_task


def test_every_file_is_a_task():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == TASKS.keys()
    assert all(loaded(name).task == f"vlynx_{name}" for name in TASKS)


@each_task
def test_its_figures_are_those_of_vlynx_score(opened, tmp_path, name):
    task, documents = opened(name)
    said = [each[task.doc_to_target][0] for each in documents]
    said[-1] = said[-1] if len(said) == 1 else "something else"
    results = [
        task.process_results(each, [text]) for each, text in zip(documents, said, strict=True)
    ]
    figures = {
        metric["metric"]: metric["aggregation"]([each[metric["metric"]] for each in results])
        for metric in task.metric_list
    }
    assert all(each.keys() == figures.keys() for each in results)
    rows = [{"doc": d, "filtered_resps": [text]} for d, text in zip(documents, said, strict=True)]
    samples = tmp_path / "samples.jsonl"  # as lmms-eval writes them
    samples.write_text("\n".join(map(json.dumps, rows)))
    scored = score(TASKS[name][0].reader.__name__, samples, tmp_path / "official")
    assert figures == {metric: scored[metric] for metric in figures}
    assert next(iter(figures)) == next(iter(scored)) and any(figures.values())


@each_task
def test_a_chat_shows_a_video_or_the_frames_of_a_scene(opened, tmp_path, name):
    task, documents = opened(name)
    *seen, text = task.doc_to_messages(documents[0])[0]["content"]
    assert task.doc_to_visual(documents[0]) == [each["url"] for each in seen]
    assert documents[0][task.doc_to_text].startswith(text["text"])
    if TASKS[name][1] == SCENE:
        assert [each["type"] for each in seen] == ["image"] * 20
        levels = [each["url"].getpixel((0, 0))[0] for each in seen]
        assert levels == sorted(levels) and seen[0]["url"].mode == "RGB"
    else:
        assert seen == [{"type": "video", "url": str(tmp_path / "media" / TASKS[name][1])}]


def test_earlier_rounds_of_a_dialogue_are_turns_of_the_chat(opened):
    task, [document] = opened("avsd")
    chat = task.doc_to_messages(document)
    assert [turn["role"] for turn in chat] == ["user", "assistant"] * 2 + ["user"]
    texts = [turn["content"][-1]["text"] for turn in chat]
    assert texts == ["question 0 ?", "answer 0 .", "question 1 ?", "answer 1 .", "question 2 ?"]
    assert [len(turn["content"]) for turn in chat] == [2, 1, 1, 1, 1]
    assert document[task.doc_to_text] == "\n".join(texts)


def test_questions_that_were_not_asked_do_not_count(opened):
    task, documents = opened("scanqa")
    (metric,) = (each for each in task.metric_list if each["metric"] == "scanqa/em1")
    asked = task.process_results(documents[0], ["teal"])["scanqa/em1"]
    assert metric["aggregation"]([asked, asked]) == 100


def test_a_missing_video_is_named_before_anything_is_asked(opened):
    with pytest.raises(BadSample, match=r"other\.mp4: is missing"):
        opened("avqa", **{"val_qa.json": [avqa(1, "a"), avqa(2, "other")]})


def test_where_the_data_are_must_be_said(monkeypatch):
    monkeypatch.delenv("VLYNX_DATA", raising=False)
    monkeypatch.delenv("VLYNX_ANNOTATIONS", raising=False)
    with pytest.raises(UserError, match="VLYNX_DATA is not set; set it to the folder"):
        loaded("avqa").process_docs(None)
