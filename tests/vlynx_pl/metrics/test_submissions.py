import json

import pytest

from datamodules import benchmarks
from vlynx_pl.metrics import Answered
from vlynx_pl.metrics.submissions import coco_captions

ONE = Answered("7", "a cat", ("a dog", "it"), clip="AB12C", question="what is it ?")
FAILED = Answered("8", None, (), clip="CD34E", question="and now ?")


def submission(benchmark, answered):
    return getattr(benchmarks, benchmark).protocol.submission(answered)


def test_avsd():
    found = submission("AVSD", [ONE, FAILED])
    assert found["type"] == "scene_aware_dialog" and found["version"] == "0.1"
    assert found["dialogs"] == [
        {"image_id": "AB12C", "dialog": [{"question": "what is it ?", "answer": "a cat"}]},
        {"image_id": "CD34E", "dialog": [{"question": "and now ?", "answer": ""}]},
    ]
    assert coco_captions([ONE, FAILED]) == [
        {"image_id": "AB12C", "caption": "a cat"},
        {"image_id": "CD34E", "caption": ""},
    ]


def test_music_avqa_keeps_the_order_given():
    assert submission("MusicAVQA", [FAILED, ONE]) == [
        {"index": 0, "video_id": "CD34E", "pred": "", "answer": ""},
        {"index": 1, "video_id": "AB12C", "pred": "a cat", "answer": "a dog"},
    ]


@pytest.mark.parametrize(
    ("benchmark", "ids"), [("ScanQA", ["000001", "000002"]), ("SQA3D", ["7", "8"])]
)
def test_scenes(benchmark, ids):
    rows = submission(benchmark, [ONE, FAILED])
    assert [row["question_id"] for row in rows] == ids
    assert [row["text"] for row in rows] == ["a cat", ""]
    assert rows[0]["prompt"] == "what is it ?"


def test_avqa_and_egoexo():
    assert submission("AVQA", [ONE]) == [
        {"question_id": "7", "image_id": "AB12C", "caption": "a cat", "answer": "a dog"}
    ]
    assert submission("EgoExo4D", [ONE]) == [
        {"image_id": "7", "caption": "a cat", "answer": "a dog"}
    ]


def test_mlvu_gives_letters():
    answered = Answered("count-3", "(B) two", ("B",), labels={"task": "count"})
    assert submission("MLVU", [answered]) == [
        {"question_id": "count-3", "question_type": "count", "option": "B"}
    ]


def test_video_mme_nests_questions_in_videos():
    labels = {"duration": "short", "domain": "D", "sub_category": "S", "task_type": "T"}
    answered = [
        Answered(f"00{video}-{n}", "C.", ("C",), ("x", "y", "z", "w"), labels)
        for n in (1, 2)
        for video in (1, 2)
    ]
    found = submission("VideoMME", answered)
    assert [video["video_id"] for video in found] == ["001", "002"]
    assert [q["question_id"] for q in found[1]["questions"]] == ["002-1", "002-2"]
    assert found[0]["duration"] == "short" and json.dumps(found)
    question = found[0]["questions"][0]
    assert question["options"] == ["A. x", "B. y", "C. z", "D. w"]
    assert (question["answer"], question["response"]) == ("C", "C.")
