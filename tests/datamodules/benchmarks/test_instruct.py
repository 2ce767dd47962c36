"""Instruct JSON and LLaVA-Video-178K."""

import json

import pytest
from official_layouts import conversation

from datamodules.benchmarks import InstructJSON, LLaVAVideo
from datamodules.samples import BadSample


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "asked", ["<image>\nWhy?", "Why?\n<image>", "<video>\nWhy?", "Why?", "<image>Why?"]
)
def test_the_placeholder_is_removed(read, asked):
    (episode,) = read(InstructJSON, "train", "a.json", [conversation("x", asked, "So.")])
    assert episode.questions[0].prompt == "Why?"


def test_turns_are_history(read):
    content = [conversation("x", "<image>\nWhy?", "So.", "And?", "No.", "Or?", "Yes.")]
    (episode,) = read(InstructJSON, "train", "a.json", content)
    (question,) = episode.questions
    assert question.history == (("Why?", "So."), ("And?", "No."))
    assert (question.prompt, question.answers) == ("Or?", ("Yes.",))


def test_roles_and_repeated_ids(read):
    content = [conversation(7, "Why?", "So.", video=f"scene000{i}_00") for i in (0, 1, 0)]
    first, second = read(InstructJSON, "train", "a.json", content, role="scene")
    assert first.media == {"scene": "scene0000_00"} and second.media == {"scene": "scene0001_00"}
    assert [q.id for q in first.questions] == ["7", "7#3"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (conversation("x", "Why?"), "in pairs, found a list of 1"),
        (conversation("x"), "conversations should be a list of objects"),
        (conversation("x", "<image><image>\nWhy?", "So."), "one <image>, in the first"),
        (conversation("x", "<image>\nWhy?", "So.", "<image>\nAnd?", "No."), "one <image>"),
        (conversation("x", "Why?", "<video>"), "one <image>"),
        (
            conversation("x") | {"conversations": [{"from": "gpt", "value": "So."}] * 2},
            r"record 0 \(id 'x'\), conversations 0: from should be one of human, found 'gpt'",
        ),
        (
            conversation("x") | {"conversations": [{"from": "human", "value": "So."}] * 2},
            "conversations 1: from should be one of gpt",
        ),
    ],
)
def test_conversations_that_do_not_fit(read, record, words):
    with pytest.raises(BadSample, match=words):
        read(InstructJSON, "train", "a.json", [record])


ACADEMIC = "1_2_m_academic_v0_1/1_2_m_academic_oe_v0_1_qa_processed.json"
YOUTUBE = "2_3_m_youtube_oe_v0_1_qa_processed.json"
BOTH = ["**/1_2_m_academic_oe_*.json", "2_3_m_youtube_oe_*.json"]


def fill(folder):
    """Three records of v_1 in one file, one of it in another, which also has v_2."""
    records = [
        conversation("v_1", f"<image>\nWhy {i}?", "So.", video="a/v_1.mp4") for i in range(4)
    ]
    write(folder / ACADEMIC, records[:3])
    write(folder / YOUTUBE, [records[3], conversation("v_2", "Why?", "So.", video="y/v_2.mp4")])


def test_two_records_of_an_id_from_each_file(tmp_path):
    fill(tmp_path)
    first, second = LLaVAVideo(tmp_path, patterns=BOTH).episodes("train")
    assert first.media == {"video": "a/v_1.mp4"} and second.media == {"video": "y/v_2.mp4"}
    assert [q.prompt for q in first.questions] == ["Why 0?", "Why 1?", "Why 3?"]
    assert [q.id for q in first.questions] == ["v_1", "v_1#2", "v_1#3"]
    everything = LLaVAVideo(tmp_path, per_video=None, patterns=BOTH).episodes("train")
    assert [len(e.questions) for e in everything] == [4, 1]
    assert len(LLaVAVideo(tmp_path, 1, BOTH).episodes("train")[0].questions) == 2


def test_pave_takes_four_files_and_misses_none(tmp_path):
    fill(tmp_path)
    benchmark = LLaVAVideo(tmp_path)
    assert benchmark.splits() == []
    with pytest.raises(BadSample, match=r"1_2_m_youtube_oe_.*is missing") as caught:
        benchmark.episodes("train")
    assert caught.value.trouble == "missing"
    for name in ("1_2_m_youtube", "2_3_m_academic"):
        write(tmp_path / f"{name}_oe_v0_1_qa_processed.json", [conversation(name, "Why?", "So.")])
    write(
        tmp_path / "0_30_s_academic_oe_v0_1_qa_processed.json", [conversation("s", "Why?", "So.")]
    )
    write(tmp_path / "1_2_m_academic_mc_v0_1_qa_processed.json", [conversation("m", "Why?", "A.")])
    ids = [q.id for e in benchmark.episodes("train") for q in e.questions]
    assert ids == ["v_1", "v_1#2", "v_1#3", "1_2_m_youtube", "2_3_m_academic", "v_2"]


def test_a_file_that_two_patterns_match_is_read_once(tmp_path):
    fill(tmp_path)
    episodes = LLaVAVideo(tmp_path, patterns=[YOUTUBE, "*.json"]).episodes("train")
    assert [len(e.questions) for e in episodes] == [1, 1]


def test_less_than_one_record():
    with pytest.raises(ValueError, match="per_video=0"):
        LLaVAVideo("x", per_video=0)


def test_videos_may_lie_in_a_folder_for_each_source(tmp_path):
    write(tmp_path / "a.json", [conversation("v", "Why?", "So.", video="academic/v.mp4")])
    for by_source, path in ((False, "academic/v.mp4"), (True, "toys/academic/v.mp4")):
        benchmark = LLaVAVideo(tmp_path, patterns=["a.json"], by_source=by_source)
        [episode] = benchmark.episodes("train")
        assert episode.media == {"video": path}
