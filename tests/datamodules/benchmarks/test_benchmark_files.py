import json

import pytest
from jsonargparse import ArgumentParser
from official_layouts import avqa, avsd, dialog, music, scanqa, take

import datamodules.benchmarks as package
from datamodules.benchmarks import AVQA, AVSD, MLVU, Benchmark, EgoExo4D, MusicAVQA, MVBench, ScanQA
from datamodules.samples import BadSample


def test_every_official_layout_reads(official, tmp_path):
    benchmark = official.open(tmp_path)
    assert benchmark.splits() == [official.split]
    episodes = benchmark.episodes(official.split)
    ids = [question.id for episode in episodes for question in episode.questions]
    assert ids and len(set(ids)) == len(ids)
    assert len({episode.name for episode in episodes}) == len(episodes)
    for episode in episodes:
        assert episode.media and episode.questions
        assert all(question.prompt.strip() for question in episode.questions)


def test_every_missing_file_is_named(official, tmp_path):
    benchmark = official.open(tmp_path)
    for name in official.files:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        assert official.split not in benchmark.splits()
        with pytest.raises(BadSample, match="Download it, or point") as caught:
            benchmark.episodes(official.split)
        assert caught.value.trouble == "missing"
        pattern = name.split("/")[-1].split("_v0")[0]
        assert pattern in str(caught.value.path)
        (tmp_path / name).write_bytes(content)


def test_a_split_that_was_never_published_says_so(official, tmp_path):
    benchmark = official.open(tmp_path)
    for split in {"train", "val", "test"} - {official.split}:
        with pytest.raises(BadSample) as caught:
            benchmark.episodes(split)
        assert caught.value.trouble == "missing"


@pytest.mark.parametrize(
    ("reader", "split", "words"),
    [
        (AVQA, "test", "AVQA has no split test: its answers were never published.*Use train, val"),
        (MLVU, "train", "MLVU has no split train: .*evaluation only.*Use test"),
        (MVBench, "val", "MVBench has no split val: .*evaluation only.*Use test"),
    ],
)
def test_why_there_is_no_such_split(tmp_path, reader, split, words):
    with pytest.raises(BadSample, match=words):
        reader(tmp_path).episodes(split)


def test_questions_of_a_clip_are_one_episode_in_file_order(read):
    content = [avqa(1, "b_000001"), avqa(2, "a_000001"), avqa(3, "b_000001")]
    episodes = read(AVQA, "val", "val_qa.json", content)
    assert [e.name for e in episodes] == ["b_000001", "a_000001"]
    assert [[q.id for q in e.questions] for e in episodes] == [["1", "3"], ["2"]]


@pytest.mark.parametrize(
    ("reader", "split", "name", "content", "words"),
    [
        (AVQA, "val", "val_qa.json", [avqa(1), avqa(4), avqa(1)], r"record 2 \(id 1\): another"),
        (
            ScanQA,
            "val",
            "ScanQA_v1.0_val.json",
            [scanqa(1), scanqa(1)],
            "same id 'val-scene0990-1'",
        ),
        (
            AVSD,
            "val",
            "valid_set4DSTC7-AVSD.json",
            avsd(dialog("A", 2), dialog("A", 3)),
            r"dialogs 1 \(image_id 'A'\): another question has the same id",
        ),
        (
            EgoExo4D,
            "val",
            "proficiency_demonstrator_val.json",
            {"annotations": [take("a"), take("a")]},
            "annotations 1 .*same id 'a'",
        ),
    ],
)
def test_an_id_that_comes_twice_is_refused(read, reader, split, name, content, words):
    with pytest.raises(BadSample, match=words):
        read(reader, split, name, content)


def test_splits_are_listed_in_order(tmp_path):
    for split in ("test", "train"):
        (tmp_path / f"avqa-{split}.json").write_text(json.dumps([music(1)]))
    assert MusicAVQA(str(tmp_path)).splits() == ["train", "test"]
    assert AVQA(tmp_path / "nowhere").splits() == []


@pytest.mark.parametrize(
    "name", [name for name, kind in vars(package).items() if kind in Benchmark.__subclasses__()]
)
def test_yaml_makes_every_benchmark(name):
    parser = ArgumentParser()
    parser.add_subclass_arguments(Benchmark, "benchmark")
    entry = {"class_path": f"datamodules.benchmarks.{name}", "init_args": {"annotations": "x"}}
    made = parser.instantiate_classes(parser.parse_object({"benchmark": entry})).benchmark
    assert type(made) is getattr(package, name) and str(made.annotations) == "x"


@pytest.mark.parametrize("reader", [MLVU, MVBench])
@pytest.mark.parametrize("tasks", [[], ["plotQA", "nothing"]])
def test_unknown_tasks(reader, tasks):
    with pytest.raises(ValueError, match=r"tasks=.*give some of"):
        reader("x", tasks=tasks)
