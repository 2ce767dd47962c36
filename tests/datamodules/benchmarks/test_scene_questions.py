"""ScanQA and SQA3D."""

import pytest
from official_layouts import Official, scanqa, sqa3d

from datamodules.benchmarks import SQA3D, ScanQA
from datamodules.samples import BadSample

QUESTIONS, ANSWERS = sqa3d("What?")
TEST = "ScanQA_v1.0_test_w_obj.json"


def test_scanqa(read):
    content = [scanqa(0), scanqa(1, "scene0991_00"), scanqa(2)]
    first, second = read(ScanQA, "val", "ScanQA_v1.0_val.json", content)
    assert first.name == "scene0990_00" and first.media == {"scene": "scene0990_00"}
    assert [q.id for q in first.questions] == ["val-scene0990-0", "val-scene0990-2"]
    assert second.questions[0].answers == ("teal", "blue green")
    assert second.questions[0].prompt == "What colour is the stool?"


def test_scanqa_names_objects_where_the_file_does(read):
    content = [scanqa(0), {k: v for k, v in scanqa(1).items() if k != "object_ids"}]
    [episode] = read(ScanQA, "val", "ScanQA_v1.0_val.json", content)
    assert [question.objects for question in episode.questions] == [(4,), ()]
    for bad in (4, ["4"], [-1], [2**63]):
        with pytest.raises(BadSample, match="object_ids should be a list of whole numbers"):
            read(ScanQA, "val", "ScanQA_v1.0_val.json", [scanqa(0) | {"object_ids": bad}])


def test_scanqa_keeps_test_answers_back(read):
    hidden = {k: v for k, v in scanqa(0).items() if k != "answers"}
    assert read(ScanQA, "test", TEST, [hidden])[0].questions[0].answers == ()
    assert read(ScanQA, "test", TEST, [scanqa(0)])[0].questions[0].answers  # as the toy world does
    with pytest.raises(BadSample, match="answers should be a list of texts, found nothing"):
        read(ScanQA, "train", "ScanQA_v1.0_train.json", [hidden])
    with pytest.raises(BadSample, match="answers should be a list of 1 to any number of texts"):
        read(ScanQA, "val", "ScanQA_v1.0_val.json", [scanqa(0) | {"answers": []}])


def test_sqa3d_joins_two_files(tmp_path):
    asked = ["What is left?", "Is it?", "How far?", "Can I?", "Which is?", "what?", "What's up?"]
    (episode,) = Official(SQA3D, "test", sqa3d(*asked)).open(tmp_path).episodes("test")
    assert episode.media == {"scene": "scene0990_00"}
    labels = [q.labels["type"] for q in episode.questions]
    assert labels == ["What", "Is", "How", "Can", "Which", "Other", "Other"]
    for question, text in zip(episode.questions, asked, strict=True):
        assert question.prompt == f"I face the stool. {text}"
        assert question.answers == (f"answer {question.id}",)


def misfit(**changes):
    files = sqa3d("What is left?", "Is it far?")
    for key, change in changes.items():
        change(files[QUESTIONS if key == "asked" else ANSWERS])
    return files


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (misfit(answered=lambda c: c["annotations"].pop()), "has no answer to it"),
        (
            misfit(answered=lambda c: c["annotations"].append(c["annotations"][0])),
            "another annotation has the same question_id",
        ),
        (
            misfit(answered=lambda c: c["annotations"][0].update(scene_id="scene0001_00")),
            "scene_id should be that of its answer",
        ),
        (misfit(asked=lambda c: c["questions"].append(c["questions"][0])), "same id"),
    ],
)
def test_sqa3d_files_that_do_not_fit(tmp_path, files, words):
    benchmark = Official(SQA3D, "test", files).open(tmp_path)
    with pytest.raises(BadSample, match=words):
        benchmark.episodes("test")
