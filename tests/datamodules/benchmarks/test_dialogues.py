"""AVSD."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from official_layouts import avsd, captions, dialog

from datamodules.benchmarks import AVSD
from datamodules.samples import BadSample

TRAIN, VALID = "train_set4DSTC7-AVSD.json", "valid_set4DSTC7-AVSD.json"
HIDDEN, MULTIPLE = "test_set4DSTC7-AVSD.json", "test_set4DSTC7-AVSD_multiref.json"
LABELLED = "lbl_test_set4DSTC7-AVSD.json"
MOCK = "mock_test_set4DSTC10-AVSD_from_DSTC7_singref.json"


def write(folder, **files):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def test_training_is_in_samples_of_five_rounds(read):
    (episode,) = read(AVSD, "train", TRAIN, avsd(dialog("AB12C", 10)))
    assert episode.name == "AB12C" and episode.media == {"video": "AB12C.mp4"}
    first, second = episode.questions
    assert (first.id, second.id) == ("AB12C_0", "AB12C_1")
    assert first.prompt == "question 4 ?" and first.answers == ("answer 4 .",)
    assert first.history == tuple((f"question {i} ?", f"answer {i} .") for i in range(4))
    assert second.history[0] == ("question 5 ?", "answer 5 .")  # the first five are not told
    assert second.prompt == "question 9 ?" and second.answers == ("the last answer .",)


def test_both_layouts_give_the_same(tmp_path):
    dialogs = [dialog("AB12C", 10), dialog("DE34F", 10)]
    write(tmp_path, **{TRAIN: avsd(*dialogs)})
    dstc7 = AVSD(tmp_path).episodes("train")
    v01 = {d["image_id"]: {"data": d["dialog"], "summary": "", "script": ""} for d in dialogs}
    (tmp_path / TRAIN).unlink()
    write(tmp_path, **{"avsd_train.json": v01})
    assert AVSD(tmp_path).episodes("train") == dstc7


@given(st.integers(1, 12), st.integers(1, 12) | st.none())
def test_samples_hold_every_round_once(tmp_path_factory, rounds, size):
    folder = tmp_path_factory.mktemp("avsd")
    write(folder, **{TRAIN: avsd(dialog("A", rounds))})
    (episode,) = AVSD(folder, turns_per_sample=size).episodes("train")
    told = [t for q in episode.questions for t in (*q.history, (q.prompt, q.answers[0]))]
    wanted = [(t["question"], t["answer"]) for t in dialog("A", rounds)["dialog"]]
    assert told == wanted
    assert all(len(q.history) < (size or rounds) for q in episode.questions)


def test_no_samples_without_rounds():
    with pytest.raises(ValueError, match="turns_per_sample=0"):
        AVSD("x", turns_per_sample=0)


def test_evaluation_asks_the_last_round_after_the_whole_history(read):
    first, second = read(AVSD, "val", VALID, avsd(dialog("A", 10), dialog("B", 1)))
    (question,) = first.questions
    assert question.id == "A" and question.prompt == "question 9 ?"
    assert question.answers == ("the last answer .",) and len(question.history) == 9
    assert second.questions[0].history == ()


def test_a_hidden_answer_is_no_answer(read):
    episodes = read(AVSD, "test", HIDDEN, avsd(dialog("A", 3, "__UNDISCLOSED__")))
    assert episodes[0].questions[0].answers == ()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_hidden_answer_is_never_learnt_or_told(read, split):
    content = avsd(dialog("A", 3, "__UNDISCLOSED__"))
    content["dialogs"][0]["dialog"].append({"question": "more ?", "answer": "no ."})
    with pytest.raises(BadSample, match=r"dialogs 0 \(image_id 'A'\): .*undisclosed"):
        read(AVSD, split, TRAIN if split == "train" else VALID, content)
    with pytest.raises(BadSample, match="to learn is undisclosed"):
        read(AVSD, "train", TRAIN, avsd(dialog("A", 3, "__UNDISCLOSED__")))


def test_the_papers_test_file_comes_first(tmp_path):
    for name, last in ((HIDDEN, "__UNDISCLOSED__"), (LABELLED, "label ."), (MOCK, "mock .")):
        write(tmp_path, **{name: avsd(dialog("A", 2, last))})
        (episode,) = AVSD(tmp_path).episodes("test")
        wanted = () if last == "__UNDISCLOSED__" else (last,)
        assert episode.questions[0].answers == wanted


@pytest.mark.parametrize("name", [HIDDEN, LABELLED])
def test_six_references(tmp_path, name):
    references = captions(A_2=[f"reference {i}" for i in range(6)], B_0=["yes"] * 6)
    write(tmp_path, **{name: avsd(dialog("A", 3), dialog("B", 1)), MULTIPLE: references})
    first, second = AVSD(tmp_path, references="multiple").episodes("test")
    assert first.questions[0].answers == tuple(f"reference {i}" for i in range(6))
    assert len(first.questions[0].history) == 2
    assert second.questions[0].answers == ("yes",) * 6
    assert AVSD(tmp_path).episodes("test")[0].questions[0].answers == ("the last answer .",)


@pytest.mark.parametrize(
    ("references", "words"),
    [
        (captions(A_1=["of another round"]), r"image_id 'A'\): .*has no references for 'A_2'"),
        (captions(A_2=["x"]) | {"annotations": [{"image_id": 7, "caption": "x"}]}, "found 7"),
        (captions(A_2=["x"], B_1=[]), "'B_1' has no caption"),
        (captions(A_2=["x"]) | {"images": [{"name": "A_2", "id": i} for i in (1, 2)]}, "same id"),
    ],
)
def test_references_that_do_not_fit(tmp_path, references, words):
    write(tmp_path, **{HIDDEN: avsd(dialog("A", 3)), MULTIPLE: references})
    with pytest.raises(BadSample, match=words):
        AVSD(tmp_path, references="multiple").episodes("test")
