"""The audio toy world on disk: clips and questions, as AVSD, AVQA, MUSIC-AVQA, AVUT have them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer

from datamodules.benchmarks.avqa import AVQA
from datamodules.benchmarks.avsd import AVSD
from datamodules.benchmarks.avut import AVUT
from datamodules.benchmarks.base import Benchmark
from datamodules.benchmarks.music_avqa import MusicAVQA
from datamodules.media.files import media_file
from experiments.toyworld import generate_toyworld, sample_scene
from experiments.toyworld.hearing import CHOICES, heard_questions
from experiments.toyworld.sound import add_sound
from tests.conftest import MINIATURE

SCENES, HELD_OUT = 30, 3
SPLITS = {"train": range(24), "val": range(24, 27), "test": range(27, 30)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small audio world made in this process."""
    out = tmp_path_factory.mktemp("toy") / "audio"
    generate_toyworld(out, "audio", SCENES, seed=3, workers=1)
    return out


def heard(name: str) -> dict[str, str]:
    """Question → answer of a clip, from its facts."""
    scene = sample_scene(3, int(name[5:9]), 16)
    return {question.text: question.answer for question in heard_questions(add_sound(scene, 3))}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def names(split: str) -> list[str]:
    return [f"scene{index:04d}_00" for index in SPLITS[split]]


def test_the_folder_holds_clips_annotations_and_a_picture(world: Path) -> None:
    clips = sorted(path.name for path in (world / "videos").iterdir())
    assert clips == [f"scene{index:04d}_00.mp4" for index in range(SCENES)]
    files = {str(path.relative_to(world)) for path in world.rglob("*.json")}
    assert files == {
        "toyworld.json",
        *(f"avsd/{kind}_set4DSTC7-AVSD.json" for kind in ("train", "valid", "test", "lbl_test")),
        "avsd/test_set4DSTC7-AVSD_multiref.json",
        *(f"avqa/{split}_qa.json" for split in ("train", "val")),
        *(f"music_avqa/avqa-{split}.json" for split in SPLITS),
        "avut/AV_Gemini_data.json",
        "avut/AV_Human_data.json",
    }
    assert Image.open(world / "contact_sheet.png").size[0] > 800


# AVSD -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "split"),
    [("train", "train"), ("valid", "val"), ("test", "test"), ("lbl_test", "test")],
)
def test_avsd_has_the_official_fields(world: Path, kind: str, split: str) -> None:
    content = read(world / "avsd" / f"{kind}_set4DSTC7-AVSD.json")
    assert content.keys() == {"type", "version", "dialogs"}
    assert (content["type"], content["version"]) == ("scene_aware_dialog", "0.1")
    assert [dialog["image_id"] for dialog in content["dialogs"]] == names(split)
    for dialog in content["dialogs"]:
        assert dialog.keys() == {"image_id", "summary", "caption", "dialog"}
        assert 1 <= len(dialog["dialog"]) <= 10
        for turn in dialog["dialog"]:
            assert turn.keys() == {"question", "answer"}
            assert turn["question"] == turn["question"].lower()
            assert turn["question"].endswith(" ?")


def as_avsd_writes(text: str) -> str:
    return text.lower().replace("?", " ?")


def test_avsd_ends_with_hearing_and_gives_nothing_away(world: Path) -> None:
    for kind in ("valid", "lbl_test"):
        for dialog in read(world / "avsd" / f"{kind}_set4DSTC7-AVSD.json")["dialogs"]:
            answers = {as_avsd_writes(q): a for q, a in heard(dialog["image_id"]).items()}
            *history, last = dialog["dialog"]
            assert answers[last["question"]] == last["answer"]
            assert not any(turn["question"] in answers for turn in history)


def test_avsd_withholds_the_last_answer_of_test_only(world: Path) -> None:
    withheld, labelled = (
        read(world / "avsd" / f"{kind}_set4DSTC7-AVSD.json")["dialogs"]
        for kind in ("test", "lbl_test")
    )
    for bare, full in zip(withheld, labelled, strict=True):
        assert bare["dialog"][:-1] == full["dialog"][:-1]
        assert bare["dialog"][-1] == full["dialog"][-1] | {"answer": "__UNDISCLOSED__"}
        assert "__UNDISCLOSED__" not in json.dumps(full)


def test_avsd_has_six_references_for_each_last_answer(world: Path) -> None:
    content = read(world / "avsd" / "test_set4DSTC7-AVSD_multiref.json")
    assert content.keys() == {"info", "licenses", "images", "type", "annotations"}
    dialogs = read(world / "avsd" / "lbl_test_set4DSTC7-AVSD.json")["dialogs"]
    assert content["images"] == [
        {"name": f"{dialog['image_id']}_{len(dialog['dialog']) - 1}", "id": number}
        for number, dialog in enumerate(dialogs, 1)
    ]
    assert [c["id"] for c in content["annotations"]] == list(range(1, 6 * HELD_OUT + 1))
    for number, dialog in enumerate(dialogs, 1):
        texts = [c["caption"] for c in content["annotations"] if c["image_id"] == number]
        assert len(set(texts)) == 6
        assert all(dialog["dialog"][-1]["answer"] in text.split() for text in texts)


# AVQA, AVUT and MUSIC-AVQA ----------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_avqa_has_the_official_fields(world: Path, split: str) -> None:
    records = read(world / "avqa" / f"{split}_qa.json")
    assert {record["video_name"] for record in records} == set(names(split))
    for record in records:
        assert record.keys() == {
            "id", "video_name", "video_id", "question_text", "multi_choice", "answer",
            "question_relation", "question_type",
        }  # fmt: skip
        assert len(set(record["multi_choice"])) == 4
        right = heard(record["video_name"])[record["question_text"]]
        assert record["multi_choice"][record["answer"]] == right
        assert record["question_relation"] in {"Sound", "Both"}
        assert record["question_type"] in {
            "Which", "Come From", "Happening", "Where", "Why", "Before Next", "When", "Used For",
        }  # fmt: skip


def test_avqa_has_its_answers_everywhere(world: Path) -> None:
    answers = [record["answer"] for record in read(world / "avqa" / "train_qa.json")]
    shares = [answers.count(letter) / len(answers) for letter in range(4)]
    assert all(0.15 < share < 0.35 for share in shares), shares


@pytest.mark.parametrize(("kind", "split"), [("Gemini", "train"), ("Human", "test")])
def test_avut_has_the_official_fields(world: Path, kind: str, split: str) -> None:
    records = read(world / "avut" / f"AV_{kind}_data.json")
    assert list(dict.fromkeys(r["video_path"] for r in records)) == [
        f"videos/{name}.mp4" for name in names(split)
    ]
    for record in records:
        assert record.keys() == {
            "video_id", "url", "video_type", "task_type", "question", "option_A", "option_B",
            "option_C", "option_D", "answer", "video_path", "QA_id",
        }  # fmt: skip
        name = Path(record["video_path"]).stem
        assert record["video_id"] == (-1 if kind == "Gemini" else int(name[5:9]))
        options = {record[f"option_{letter}"] for letter in "ABCD"}
        assert any(len(options & set(choices)) == 4 for choices in CHOICES.values())
        assert record[f"option_{record['answer']}"] == heard(name)[record["question"]]
    assert {record["task_type"] for record in records} == {
        "Audio Information Extraction", "Audio Content Counting", "Audio Object Matching",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["Gemini", "Human"])
def test_no_letter_of_avut_is_right_more_often(world: Path, kind: str) -> None:
    letters: dict[str, Counter[str]] = defaultdict(lambda: Counter(dict.fromkeys("ABCD", 0)))
    for record in read(world / "avut" / f"AV_{kind}_data.json"):
        for about in ("all", record["task_type"], record["question"]):
            letters[about][record["answer"]] += 1
    assert letters["all"].total() > 10
    for about, counts in letters.items():
        assert max(counts.values()) - min(counts.values()) <= 1, (about, counts)


def test_avut_asks_what_avqa_asks(world: Path) -> None:
    """The same questions under the same numbers; only places of the right answers differ."""
    ours = {
        r["QA_id"]: (r["question"], {r[f"option_{letter}"] for letter in "ABCD"})
        for r in read(world / "avut" / "AV_Gemini_data.json")
    }
    theirs = read(world / "avqa" / "train_qa.json")
    assert ours == {r["id"]: (r["question_text"], set(r["multi_choice"])) for r in theirs}


@pytest.mark.parametrize("split", SPLITS)
def test_music_avqa_has_the_official_fields(world: Path, split: str) -> None:
    records = read(world / "music_avqa" / f"avqa-{split}.json")
    assert {record["video_id"] for record in records} == set(names(split))
    kinds = {
        "Audio": {"Counting", "Comparative"},
        "Visual": {"Counting", "Location"},
        "Audio-Visual": {"Existential", "Counting", "Location", "Comparative", "Temporal"},
    }
    for record in records:
        assert record.keys() == {
            "video_id", "question_id", "type", "question_content", "templ_values",
            "question_deleted", "anser",
        }  # fmt: skip
        modality, kind = json.loads(record["type"])
        assert kind in kinds[modality]
        if modality == "Visual":
            continue
        text = record["question_content"]
        for value in json.loads(record["templ_values"]):
            start, end = text.index("<"), text.index(">") + 1
            text = text[:start] + value + text[end:]
        assert heard(record["video_id"])[text] == record["anser"]


def test_question_numbers_are_unique(world: Path) -> None:
    for files, field in (
        ("avqa/*_qa.json", "id"),
        ("music_avqa/*.json", "question_id"),
        ("avut/*.json", "QA_id"),
    ):
        ids = [record[field] for path in world.glob(files) for record in read(path)]
        assert len(set(ids)) == len(ids)


def benchmarks(world: Path) -> Iterator[tuple[Benchmark, set[str]]]:
    yield AVSD(world / "avsd"), set(SPLITS)
    yield AVSD(world / "avsd", references="multiple"), set(SPLITS)
    yield AVQA(world / "avqa"), {"train", "val"}
    yield MusicAVQA(world / "music_avqa", videos="flat"), set(SPLITS)
    yield AVUT(world / "avut"), {"train", "test"}


def test_the_readers_of_the_real_sets_read_these(world: Path) -> None:
    for benchmark, splits in benchmarks(world):
        assert set(benchmark.splits()) == splits
        for split in benchmark.splits():
            episodes = benchmark.episodes(split)
            assert sorted(Path(episode.name).stem for episode in episodes) == names(split)
            for episode in episodes:
                place = world / "videos" / f"{Path(episode.name).stem}.mp4"
                assert media_file(world, episode.media["video"], sound=True) == place
                assert all(question.answers for question in episode.questions)


def test_the_miniature_knows_every_word_and_says_every_letter_at_once(world: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE)
    for benchmark, _ in benchmarks(world):
        for split in benchmark.splits():
            for question in (q for e in benchmark.episodes(split) for q in e.questions):
                for text in (question.prompt, *question.answers, *question.options):
                    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                    assert tokenizer.decode(ids) == text
                if question.options:
                    assert len(tokenizer(question.answers[0])["input_ids"]) == 1
