"""What all readers have in common."""

import json

import pytest
from official_layouts import OFFICIAL, avqa, avsd, dialog, music

from datamodules.benchmarks import AVQA, AVSD, MLVU, MusicAVQA, MVBench
from datamodules.samples import BadSample


@pytest.mark.parametrize("layout", OFFICIAL)
def test_an_official_layout_is_read_and_whatever_it_lacks_is_named(layout, tmp_path):
    official = OFFICIAL[layout]
    benchmark = official.open(tmp_path)
    assert benchmark.splits() == [official.split]
    episodes = benchmark.episodes(official.split)
    questions = [question for episode in episodes for question in episode.questions]
    assert questions and len({question.id for question in questions}) == len(questions)
    assert len({episode.name for episode in episodes}) == len(episodes)
    assert all(episode.media and episode.questions for episode in episodes)
    assert all(question.prompt.strip() for question in questions)
    for split in {"train", "val", "test"} - {official.split}:
        with pytest.raises(BadSample) as caught:
            benchmark.episodes(split)
        assert caught.value.trouble == "missing"
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


def test_why_a_split_is_missing(tmp_path):
    reason = "AVQA has no split test: its answers were never published.*Use train, val"
    with pytest.raises(BadSample, match=reason):
        AVQA(tmp_path).episodes("test")


def test_questions_of_a_clip_are_one_episode_in_file_order(read):
    content = [avqa(1, "b_000001"), avqa(2, "a_000001"), avqa(3, "b_000001")]
    episodes = read(AVQA, "val", "val_qa.json", content)
    assert [e.name for e in episodes] == ["b_000001", "a_000001"]
    assert [[q.id for q in e.questions] for e in episodes] == [["1", "3"], ["2"]]


@pytest.mark.parametrize(
    ("reader", "name", "content", "words"),
    [
        (AVQA, "val_qa.json", [avqa(1), avqa(4), avqa(1)], r"record 2 \(id 1\): another"),
        (
            AVSD,
            "valid_set4DSTC7-AVSD.json",
            avsd(dialog("A", 2), dialog("A", 3)),
            r"dialogs 1 \(image_id 'A'\): another question has the same id",
        ),
    ],
)
def test_a_repeated_id_is_refused(read, reader, name, content, words):
    with pytest.raises(BadSample, match=words):
        read(reader, "val", name, content)


def test_splits_are_listed_in_order(tmp_path):
    for split in ("test", "train"):
        (tmp_path / f"avqa-{split}.json").write_text(json.dumps([music(1)]))
    assert MusicAVQA(str(tmp_path)).splits() == ["train", "test"]
    assert AVQA(tmp_path / "nowhere").splits() == []


@pytest.mark.parametrize("reader", [MLVU, MVBench])
@pytest.mark.parametrize("tasks", [[], ["plotQA", "nothing"]])
def test_unknown_tasks(reader, tasks):
    with pytest.raises(ValueError, match=r"tasks=.*give some of"):
        reader("x", tasks=tasks)
