"""AVQA, MUSIC-AVQA, AVUT, VideoMME, MVBench and MLVU."""

import json
from functools import partial

import pytest
from official_layouts import ABOUT_VIDEO, avqa, avut, music, mvbench, video_mme

from datamodules.benchmarks import AVQA, AVUT, MLVU, MusicAVQA, MVBench, VideoMME, prompts
from datamodules.samples import BadSample


def test_avqa(read):
    (episode,) = read(AVQA, "val", "val_qa.json", [avqa(7)])
    assert episode.media == {"video": "toyVideo_01_000030.mp4"}
    (question,) = episode.questions
    assert question.id == "7" and question.answers == ("C",)
    assert question.options == ("a bell", "a cat", "an alarm clock", "rain")
    assert question.prompt == prompts.avqa("What rings?", question.options)
    assert question.labels == {"relation": "Sound", "type": "Come From"}


def test_music_avqa(read):
    (episode,) = read(MusicAVQA, "test", "avqa-test.json", [music(5)])
    assert episode.name == "00000007"
    assert episode.media == {"video": "MUSIC-AVQA-videos-Real/00000007.mp4"}
    (question,) = episode.questions
    assert question.prompt == "Is the tuba on the left louder than the acoustic_guitar？"
    assert question.answers == ("yes",) and question.options == ()
    assert question.labels == {"modality": "Audio-Visual", "type": "Comparative"}
    values = {"templ_values": json.dumps(["<Object>", "\\1", "x"])}  # never taken for slots
    (episode,) = read(MusicAVQA, "test", "avqa-test.json", [music(5) | values])
    assert episode.questions[0].prompt == "Is the <Object> on the \\1 louder than the x？"


def test_music_avqa_folders(read):
    content = [music(1, "sa00008488"), music(2, "00000012")]
    paths = [e.media["video"] for e in read(MusicAVQA, "val", "avqa-val.json", content)]
    assert paths[0] == "MUCIS-AVQA-videos-Synthetic/sa00008488.mp4"
    assert paths[1] == "MUSIC-AVQA-videos-Real/00000012.mp4"
    flat = read(MusicAVQA, "val", "avqa-val.json", content, videos="flat")
    assert [e.media["video"] for e in flat] == ["sa00008488.mp4", "00000012.mp4"]


def test_music_avqa_has_audio_questions_twice_in_training_only(read):
    content = [music(1, kind="Audio"), music(2, kind="Visual"), music(3, "sa1", "Audio-Visual")]

    def ids(split, **options):
        episodes = read(MusicAVQA, split, f"avqa-{split}.json", content, **options)
        return [[q.id for q in e.questions] for e in episodes]

    assert ids("train", duplicate_audio=True) == [["1", "1#2", "2"], ["3", "3#2"]]
    assert ids("train") == ids("test", duplicate_audio=True) == [["1", "2"], ["3"]]


def test_music_avqa_repeats_ids(read):
    content = [music(291), music(291) | {"anser": "no"}]
    (episode,) = read(MusicAVQA, "val", "avqa-val.json", content)
    found = [(question.id, question.answers) for question in episode.questions]
    assert found == [("291", ("yes",)), ("291#2", ("no",))]


@pytest.mark.parametrize(
    ("split", "name", "options"),
    [
        ("train", "AV_Gemini_data.json", {}),
        ("train", "AV_Gemini_filtered_data.json", {"filtered": True}),
        ("test", "AV_Human_data.json", {"filtered": True}),
    ],
)
def test_avut(read, split, name, options):
    (episode,) = read(AVUT, split, name, [avut(3), avut(4)], **options)
    assert episode.media == {"video": "data/toy.mp4"} and len(episode.questions) == 2
    question = episode.questions[0]
    # The right option is blank, as in a published record.
    assert question.answers == ("C",) and question.options == ("Toys", "Cubes", "", "Bells")
    assert question.labels == {"task": "Audio OCR Matching", "type": "vlog"}
    assert question.prompt == prompts.avqa("What is written when the bell rings?", question.options)


def test_video_mme_in_both_layouts(read):
    nested = [ABOUT_VIDEO | {"questions": [video_mme("801-1"), video_mme("801-2")]}]
    rows = [ABOUT_VIDEO | video_mme("801-1"), ABOUT_VIDEO | video_mme("801-2")]
    episodes = read(VideoMME, "test", "t.json", nested)
    assert read(VideoMME, "test", "t.json", rows) == episodes
    assert read(VideoMME, "test", "t.jsonl", rows) == episodes
    (episode,) = episodes
    assert episode.media == {"video": "801.mp4"}
    question = episode.questions[1]
    assert question.id == "801-2" and question.answers == ("C",)
    assert question.options == ("One.", "Two.", "Three.", "None.")
    assert question.prompt == prompts.video_mme("How many cubes fall?", video_mme("")["options"])
    labels = {"duration": "short", "domain": "Toys", "sub_category": "Cubes"}
    assert question.labels == labels | {"task_type": "Counting Problem"}
    (episode,) = read(VideoMME, "test", "t.json", [ABOUT_VIDEO | video_mme("1", videoID="-xY_1")])
    assert episode.media == {"video": "-xY_1.mp4"}


def test_mvbench(read):
    content = [mvbench(), mvbench(), mvbench(start=1.5, end=4)]
    whole, part = read(MVBench, "test", "action_count.json", content, tasks=["action_count"])
    assert whole.media == part.media == {"video": "perception/videos/17.webm"}
    assert whole.span is None and part.span == (1.5, 4.0) and whole.name != part.name
    assert [q.id for q in whole.questions] == ["action_count-0", "action_count-1"]
    question = part.questions[0]
    assert question.answers == ("C",) and question.labels == {"task": "action_count"}
    assert question.prompt == prompts.mvbench("What happens?", question.options)


def test_mvbench_tasks_share_videos(tmp_path):
    for task in ("moving_count", "object_existence", "state_change"):
        (tmp_path / f"{task}.json").write_text(json.dumps([mvbench()]))
    tasks = ["moving_count", "object_existence", "state_change"]
    clevrer, perception = MVBench(tmp_path, tasks=tasks).episodes("test")
    assert [q.labels["task"] for q in clevrer.questions] == tasks[:2]
    assert perception.media == {"video": "perception/videos/17.webm"}
    (flat,) = MVBench(tmp_path, tasks=tasks, videos="flat").episodes("test")
    assert flat.media == {"video": "17.webm"} and len(flat.questions) == 3
    assert MVBench(tmp_path).splits() == []  # seventeen tasks are missing
    with pytest.raises(BadSample, match=r"action_sequence\.json: is missing"):
        MVBench(tmp_path).episodes("test")


@pytest.mark.parametrize(
    ("task", "video", "second"),
    [
        ("action_sequence", "EDXBD.mp4", "data0613/star/Charades_v1_480/EDXBD.mp4"),
        ("moving_count", "video_1.mp4", "data0613/clevrer/video_validation/video_1.mp4"),
        ("fine_grained_pose", "S01_rgb.avi", "nturgbd_convert/S01_rgb.avi"),
        ("action_antonym", "166583.webm", "ssv2_video_mp4/166583.webm"),
        ("action_count", "17.webm", None),
    ],
)
def test_mvbench_has_second_folders(read, task, video, second):
    (episode,) = read(MVBench, "test", f"{task}.json", [mvbench(video)], tasks=[task])
    paths = [path for path in (episode.media["video"], second) if path]
    assert episode.elsewhere["video"] == (*paths[1:], *(f"video/{path}" for path in paths))
    options = {"tasks": [task], "videos": "flat"}
    (flat,) = read(MVBench, "test", f"{task}.json", [mvbench(video)], **options)
    assert flat.elsewhere == {"video": (f"video/{video}",)}


@pytest.mark.parametrize(
    ("task", "video", "folder"),
    [
        ("object_interaction", "USNP1_1.2999999999999998_15.4.mp4", "star/Charades_segment"),
        ("action_localization", "NBMH9_21.4_37.6.mp4", "sta/sta_video_segment"),
        ("episodic_reasoning", "castle_s01e01_clip_00_0_5.2.mp4", "tvqa/video_fps3_hq_segment"),
        ("episodic_reasoning", "castle_s01e01_clip_00", "tvqa/frames_fps3_hq"),
    ],
)
def test_mvbench_names_folders_of_frames_or_parts_that_are_already_cut(read, task, video, folder):
    content = [mvbench(video, start=21.4, end=37.6)]
    (episode,) = read(MVBench, "test", f"{task}.json", content, tasks=[task])
    part = video.endswith(".mp4")
    assert episode.media == {"video" if part else "frames": f"{folder}/{video}"}
    assert episode.span == (None if part else (21.4, 37.6))


def test_mlvu(read):
    content = [mvbench("count_1.mp4", duration=9.5, question_type="count")]
    (episode,) = read(MLVU, "test", "4_count.json", content, tasks=["count"])
    assert episode.media == {"video": "4_count/count_1.mp4"} and episode.span is None
    (question,) = episode.questions
    assert question.id == "count-0" and question.answers == ("C",)
    assert question.labels == {"task": "count"}
    assert question.prompt == prompts.mlvu("What happens?", question.options)
    (flat,) = read(MLVU, "test", "4_count.json", content, tasks=["count"], videos="flat")
    assert flat.media == {"video": "count_1.mp4"}


def test_mlvu_reads_seven_choice_tasks_unless_told_otherwise(tmp_path):
    tasks = ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning")
    files = [path.stem for path in MLVU(tmp_path).files("test")]
    assert files == [f"{number}_{task}" for number, task in enumerate(tasks, 1)]


@pytest.mark.parametrize(("task", "name"), [("sub_scene", "8_sub_scene"), ("summary", "9_summary")])
def test_mlvu_generation(read, task, name):
    row = {"video": "7.mp4", "question": "Sum up.", "answer": "Toys.", "scoring_points": ["a"]}
    (episode,) = read(MLVU, "test", f"{name}.json", [row], tasks=[task])
    (question,) = episode.questions
    assert (question.prompt, question.answers, question.options) == ("Sum up.", ("Toys.",), ())


def test_mlvu_has_odd_records(read):
    blank = {"video": "m.mp4", "question": "", "candidates": [""] * 4, "answer": ""}
    twice = mvbench("n.mp4", candidates=["x", "y", "x", "z"], answer="x")
    odd, double = read(MLVU, "test", "3_ego.json", [blank, twice], tasks=["ego"])
    # Of equal options the official code takes the last.
    assert odd.questions[0].answers == ("D",) and double.questions[0].answers == ("C",)


IN_AVQA = AVQA, "train_qa.json", avqa(7)
IN_MUSIC = MusicAVQA, "avqa-train.json", music(5)
IN_AVUT = AVUT, "AV_Gemini_data.json", avut(3)
IN_VIDEO_MME = VideoMME, "t.json", ABOUT_VIDEO | video_mme("801-1")
IN_MVBENCH = partial(MVBench, tasks=["action_count"]), "action_count.json", mvbench()
IN_MLVU = partial(MLVU, tasks=["ego"]), "3_ego.json", mvbench()


@pytest.mark.parametrize(
    ("layout", "fields", "words"),
    [
        (IN_AVQA, {"answer": 4}, r"record 0 \(id 7\): answer should be .* 0 to 3, found 4"),
        (IN_AVQA, {"multi_choice": ["a", "b", "c"]}, "multi_choice should be a list of 4 texts"),
        (IN_MUSIC, {"templ_values": '["tuba"]'}, "templ_values should be 3 values"),
        (IN_MUSIC, {"templ_values": '["a", "b", "c", "d"]'}, "templ_values should be 3 values"),
        (IN_MUSIC, {"question_content": "Is it loud?"}, "templ_values should be 0 values"),
        (IN_MUSIC, {"type": '["Audio"]'}, "type should be a modality and a type"),
        (IN_MUSIC, {"type": "Audio"}, "type is not JSON"),
        (IN_MUSIC, {"anser": None, "answer": "yes"}, "anser should be a text"),
        (IN_AVUT, {"answer": "E"}, r"record 0 \(QA_id 3\): answer should be"),
        (IN_AVUT, {"option_D": None}, "option_D should be a text"),
        (IN_VIDEO_MME, {"answer": "C. Three."}, "answer should be one of A, B, C, D"),
        (IN_VIDEO_MME, {"options": ["A. a", "C. c", "B. b", "D. d"]}, r"'C\. c' should begin with"),
        (IN_MVBENCH, {"start": 7.5, "end": 7.5}, r"start 7\.5 should be before end 7\.5"),
        (IN_MVBENCH, {"start": 4}, "end should be a time in s, found nothing"),
        (IN_MVBENCH, {"answer": "It flies."}, "answer should be one of the options"),
        (IN_MVBENCH, {"candidates": ["It spins."]}, "a list of 2 to 5 texts"),
        (IN_MVBENCH, {"candidates": ["It spins."] * 6}, "a list of 2 to 5 texts"),
        (IN_MLVU, {"video": None, "option": "D"}, "record 0: video should be a text, found null"),
    ],
)
def test_records_that_do_not_fit(tmp_path, layout, fields, words):
    reader, name, record = layout
    path = tmp_path / name
    path.write_text(json.dumps([record | fields]))
    benchmark = reader(path if reader is VideoMME else tmp_path)
    with pytest.raises(BadSample, match=words):
        benchmark.episodes(benchmark.splits()[0])
