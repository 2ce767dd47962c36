"""Toy worlds on disk: complete or absent, reproducible, and in the benchmarks' own formats."""

import errno
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from datamodules.benchmarks import (
    AVQA,
    AVSD,
    AVUT,
    MLVU,
    SQA3D,
    EgoExo4D,
    LLaVAVideo,
    MusicAVQA,
    MVBench,
    ScanQA,
    VideoMME,
)
from datamodules.media.files import media_file
from datamodules.media.sampling import Uniform
from datamodules.media.scannet import open_scene
from datamodules.media.scannet_splits import find_scenes, listed_scenes
from datamodules.media.video import Request, read_video
from datamodules.samples import BadSample
from datamodules.signals import tiling
from experiments.toyworld import files, generate_toyworld, render_scene, sample_scene
from experiments.toyworld.__main__ import main
from experiments.toyworld.blink_questions import blink_questions, first_within
from experiments.toyworld.blinks import PARTS, sample_clip
from experiments.toyworld.hearing import heard_questions
from experiments.toyworld.questions import COMPARISONS, ONE_OBJECT, THREE_D, questions
from experiments.toyworld.sensed_rooms import SENSED
from experiments.toyworld.sound import add_sound
from experiments.toyworld.takes import FPS, FRAMES, sample_take
from experiments.toyworld.worlds import WORLDS
from tests.conftest import MINIATURE
from tests.datamodules.benchmarks.official_layouts import OFFICIAL
from tests.experiments.toyworld.conftest import CLIPS, SEED
from tests.experiments.toyworld.pixels import white

ASKED = [name for name in WORLDS if name not in SENSED]  # the others have no questions
SPLITS = {"train": range(24), "val": range(24, 27), "test": range(27, 30)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Generation -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(world, tmp_path):
    generate_toyworld(tmp_path / "two", "audio", CLIPS, SEED, workers=2)
    one, two = contents(world("audio")), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [path for path in one if one[path] != two[path]] == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in {"ego", "highfps"} else ())
        for name in ASKED
    ],
)
def test_a_clip_depends_on_its_seed_and_number_alone(name, world, tmp_path):
    WORLDS[name].make(tmp_path / "same", SEED, 2)
    WORLDS[name].make(tmp_path / "other", SEED + 1, 2)
    same, other = contents(tmp_path / "same"), contents(tmp_path / "other")
    assert same and same.items() <= contents(world(name)).items()
    assert not set(same.values()) & {v for k, v in other.items() if "intrinsic" not in k}


def test_the_manifest_records_the_arguments_of_a_complete_world_which_is_left_alone(world):
    folder = world("3d")
    assert json.loads((folder / "toyworld.json").read_text()) == {
        "format": "vlynx-toyworld-2", "world": "3d", "scenes": CLIPS, "seed": SEED, "frames": 4,
        "size": 64,
    }  # fmt: skip
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert not generate_toyworld(folder, "3d", CLIPS, SEED)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(("name", "seed"), [("3d", SEED + 1), ("audio", SEED)])
def test_another_world_is_not_overwritten(world, name, seed):
    with pytest.raises(BadSample, match=r"another toy world.*another --out"):
        generate_toyworld(world("3d"), name, CLIPS, seed)


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadSample, match="not a toy world"):
        generate_toyworld(tmp_path, scenes=3)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_too_few_scenes_and_unknown_worlds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="scenes=2"):
        generate_toyworld(tmp_path / "w", scenes=2)
    with pytest.raises(ValueError, match=r"'smell' is not one of 3d, audio"):
        generate_toyworld(tmp_path / "w", "smell")
    assert not (tmp_path / "w").exists()


def test_after_a_full_disk_the_world_is_generated_again(tmp_path, monkeypatch):
    jpeg, calls, out = files.jpeg, count(), tmp_path / "w"

    def full(frame):
        if next(calls) == 9:  # in the third scene
            raise OSError(errno.ENOSPC, "No space left on device")
        return jpeg(frame)

    monkeypatch.setattr(files, "jpeg", full)
    with pytest.raises(BadSample, match=r"w: could not be written .No space left"):
        generate_toyworld(out, scenes=4, workers=1)
    assert not (out / "toyworld.json").exists()
    finished = [path.name for path in (out / "scans").glob("scene*")]
    assert sorted(finished) == ["scene0000_00", "scene0001_00"]
    monkeypatch.undo()
    assert generate_toyworld(out, scenes=4, workers=1)
    assert (out / "toyworld.json").exists()
    assert len(list((out / "scans").iterdir())) == 4


def test_the_command_generates_a_world_or_says_why_not(tmp_path, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr("sys.argv", ["toyworld", "3d", "--out", *map(str, words)])
        main()

    out = tmp_path / "w"
    command(out, "--scenes", 3, "--seed", 4, "--workers", 1)
    assert json.loads((out / "toyworld.json").read_text())["seed"] == 4
    with pytest.raises(SystemExit, match=r"Error: .*contains another toy world"):
        command(out, "--scenes", 3)
    for option, words in (("--scenes=2", "give 3 or more"), ("--workers=0", "give 1 or more")):
        with pytest.raises(SystemExit, match="2"):
            command(out, option)
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ASKED)
def test_the_contact_sheet_is_an_image(name, world):
    assert Image.open(world(name) / "contact_sheet.png").width > 800


# Media ------------------------------------------------------------------------------------------


def test_scenes_are_read_like_scannets(world):
    for number, folder in enumerate(find_scenes(world("3d"))[:8]):
        rendered = render_scene(sample_scene(SEED, number))
        scene = open_scene(folder)
        assert len(scene.frames) == 4
        assert not scene.dropped
        for i, frame in enumerate(scene.frames):
            assert np.array_equal(scene.read_depth(frame).numpy(), rendered.depth[i])
            colour = scene.read_colour(frame).numpy().transpose(1, 2, 0)
            assert np.abs(colour.astype(int) - rendered.colour[i]).mean() < 3  # JPEG
        assert Image.open(folder / "depth" / "0.png").mode == "I;16"
        names = {path.name for path in (folder / "intrinsic").iterdir()}
        streams = ("color", "depth")
        assert names == {f"{what}trinsic_{s}.txt" for what in ("in", "ex") for s in streams}


def test_splits_share_no_scene(world):
    splits = {name: [p.name for p in paths] for name, paths in listed_scenes(world("3d")).items()}
    assert json.loads((world("3d") / "scene_split.json").read_text()) == splits
    assert splits == {name: [f"scene{i:04d}_00" for i in part] for name, part in SPLITS.items()}


def test_blinks_are_in_tiles_of_four_and_in_no_slow_frame(world):
    seen = set()
    for index in range(12):
        clip = sample_clip(SEED, index)
        requests = [Request(Uniform(n)) for n in (4, 8, 16)]
        recording = read_video(world("highfps") / "videos" / f"{clip.name}.mp4", requests)
        four, eight, fast = (stream.pixels for stream in recording.streams)
        for slow in (four, eight):
            assert not white(slow.permute(0, 2, 3, 1).numpy()).any()
        tiles = tiling(fast, (128, 128)).unflatten(2, (2, 64)).unflatten(4, (2, 64))
        tiles = tiles.permute(0, 2, 4, 3, 5, 1).flatten(0, 2).numpy()  # (16, 64, 64, 3)
        lit = white(tiles).sum((1, 2)) > 10
        assert lit.sum() == len(clip.blinks)
        seen.add(len(clip.blinks))
    assert len(seen) > 3


def test_views_of_a_take_are_aligned_and_only_the_egocentric_one_is_square(world):
    for path in (world("ego") / "takes").rglob("*.mp4"):
        (stream,) = read_video(path, [Request(Uniform(FRAMES))]).streams
        assert stream.times == tuple(i / FPS for i in range(FRAMES))
        assert stream.pixels.shape[2:] == (64, 64 if path.stem == "aria01_214-1" else 80)


# Formats ----------------------------------------------------------------------------------------

LAYOUTS = [  # world, files, official layout, and which of its files
    ("3d", "ScanQA_v1.0_*.json", "ScanQA", 0),
    ("3d", "v1_balanced_questions_*.json", "SQA3D", 0),
    ("3d", "v1_balanced_sqa_annotations_*.json", "SQA3D", 1),
    ("audio", "avsd/*_set4DSTC7-AVSD.json", "AVSD train", 0),
    ("audio", "avsd/test_set4DSTC7-AVSD_multiref.json", "AVSD test", 1),
    ("audio", "avqa/*_qa.json", "AVQA", 0),
    ("audio", "music_avqa/avqa-*.json", "MUSIC-AVQA", 0),
    ("audio", "avut/AV_*_data.json", "AVUT", 0),
    ("highfps", "llava_video/*_qa_processed.json", "LLaVA-Video-178K", 0),
    ("highfps", "videomme/output_test_template.json", "VideoMME nested", 0),
    ("highfps", "mvbench/json/*.json", "MVBench", 0),
    ("highfps", "mlvu/json/*.json", "MLVU", 0),
    ("ego", "annotations/proficiency_demonstrator_*.json", "Ego-Exo4D", 0),
]


def missing(found: Any, official: Any, where: str = "") -> Iterator[str]:
    """Fields of an official file that some record of a toy file lacks, or has in another form."""
    if isinstance(official, dict | list | str) and not isinstance(found, type(official)):
        yield f"{where}: {type(found)}"
    elif isinstance(official, dict):
        for name in official.keys() - {"exo1"}:  # a camera, which not every take has
            if name in found:
                yield from missing(found[name], official[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}"
    elif isinstance(official, list):
        for each in found:
            yield from missing(each, official[0], f"{where}[]")


@pytest.mark.parametrize(("name", "pattern", "layout", "number"), LAYOUTS)
def test_files_have_the_official_fields(world, name, pattern, layout, number):
    official = list(OFFICIAL[layout].files.values())[number]
    paths = list(world(name).glob(pattern))
    assert paths
    for path in paths:
        assert not set(missing(json.loads(path.read_text()), official)), path.name


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def readers(name: str, root: Path) -> Iterator[tuple[Any, Path, set[str]]]:
    """Benchmarks of a world, the folders of their media, and their splits."""
    match name:
        case "3d":
            yield ScanQA(root), root, set(SPLITS)
            yield SQA3D(root), root, set(SPLITS)
        case "audio":
            yield AVSD(root / "avsd"), root, set(SPLITS)
            yield AVSD(root / "avsd", references="multiple"), root, set(SPLITS)
            yield AVQA(root / "avqa"), root, {"train", "val"}
            yield MusicAVQA(root / "music_avqa", videos="flat"), root, set(SPLITS)
            yield AVUT(root / "avut"), root, {"train", "test"}
        case "highfps":
            yield (LLaVAVideo(root / "llava_video", None, ["*_qa_processed.json"]), root, {"train"})
            tasks = sorted(path.stem for path in (root / "mvbench" / "json").iterdir())
            videos = root / "mvbench" / "video"
            yield MVBench(root / "mvbench" / "json", tasks), videos, {"test"}
            tasks = [path.stem[2:] for path in (root / "mlvu" / "json").iterdir()]
            yield MLVU(root / "mlvu" / "json", tasks), root / "mlvu" / "video", {"test"}
            yield VideoMME(root / "videomme" / "output_test_template.json"), root, {"test"}
        case "ego":
            yield EgoExo4D(root / "annotations"), root, set(SPLITS)


def facts(name: str, index: int) -> tuple[str, dict[str, set[str]]]:
    """Name of a clip, and question → answers; a part of a clip may have another answer."""
    answers: dict[str, set[str]] = defaultdict(set)
    scene = sample_scene(SEED, index)
    asked: list[Any] = []
    match name:
        case "3d":
            asked = questions(scene)
        case "audio":
            room = add_sound(sample_scene(SEED, index, 16), SEED)
            asked = [*questions(room.scene), *heard_questions(room)]
        case "highfps":
            clip = sample_clip(SEED, index)
            asked = [*blink_questions(clip), *(q for p in PARTS for q in first_within(clip, p))]
        case "ego":
            take = sample_take(SEED, index)
            return take.name, {"": {take.skill}}
    for question in asked:
        answers[question.text].add(question.answer)
    return scene.name, answers


def clip_of(media: Mapping[str, str], root: Path) -> str:
    """The name of the clip whose media these are; all of them exist."""
    if "ego" in media or "take" in media:
        assert all((root / path).exists() for path in media.values())
        return Path(next(iter(media.values()))).parts[1]
    if "scene" in media:
        assert (root / "scans" / media["scene"]).is_dir()
        return media["scene"]
    return media_file(root, media["video"]).stem


def stated_answer(question: Any) -> str:
    """The text of the reference, of a choice question that of its letter."""
    [first, *_] = question.answers
    if question.options:
        return question.options["ABCD".index(first)]
    lines = question.prompt.splitlines()
    return next((line[3:] for line in lines if line.startswith(f"{first} ")), first)


@pytest.mark.parametrize("name", ASKED)
def test_the_readers_of_the_benchmarks_find_every_clip_and_the_answers_of_its_facts(name, world):
    known = [facts(name, index) for index in range(CLIPS)]
    for benchmark, root, splits in readers(name, world(name)):
        assert set(benchmark.splits()) == splits
        for split in benchmark.splits():
            part = SPLITS["val" if isinstance(benchmark, MVBench) else split]
            found = set()
            for episode in benchmark.episodes(split):
                clip = clip_of(episode.media, root)
                found.add(clip)
                answers = dict(known)[clip]
                for question in episode.questions:
                    if name == "ego" and split == "test":
                        assert not question.answers
                        continue
                    prompt = question.prompt.replace(" ?", "?").lower()
                    text = max((t for t in answers if t.lower() in prompt), key=len)
                    assert stated_answer(question) in answers[text], (clip, question)
            assert found == {known[index][0] for index in part}


def test_both_scene_benchmarks_ask_every_kind_and_repeat_no_question(world):
    kinds: dict[Any, set[str]] = defaultdict(set)
    asked_of: Counter[tuple[str, str]] = Counter()
    kind_of = {q.text: q.kind for i in range(CLIPS) for q in questions(sample_scene(SEED, i))}
    for path in (*world("3d").glob("ScanQA*"), *world("3d").glob("*questions*")):
        content = read(path)
        for record in content if isinstance(content, list) else content["questions"]:
            kinds[type(content)].add(kind_of[record["question"]])
            asked_of[record["scene_id"], record["question"]] += 1
    assert all(found == {*ONE_OBJECT, *COMPARISONS, *THREE_D} for found in kinds.values())
    assert len(kinds) == 2 and max(asked_of.values()) == 1


def test_scanqa_names_the_objects_that_it_asks_for(world):
    for record in read(world("3d") / "ScanQA_v1.0_train.json"):
        objects = sample_scene(SEED, int(record["scene_id"][5:9])).objects
        named = [f"{objects[k].colour} {objects[k].shape}" for k in record["object_ids"]]
        assert record["object_names"] == named


def dialogs(world: Any, kind: str) -> list[dict[str, Any]]:
    content = read(world("audio") / f"avsd/{kind}_set4DSTC7-AVSD.json")
    return list(content["dialogs"])


@pytest.mark.parametrize("kind", ["valid", "lbl_test"])
def test_avsd_ends_with_hearing_and_does_not_give_the_answer_away(world, kind):
    for dialog in dialogs(world, kind):
        room = add_sound(sample_scene(SEED, int(dialog["image_id"][5:9]), 16), SEED)
        heard = {q.text.lower().replace("?", " ?") for q in heard_questions(room)}
        assert [turn["question"] in heard for turn in reversed(dialog["dialog"])] == [
            True, *[False] * (len(dialog["dialog"]) - 1),
        ]  # fmt: skip
        assert len(dialog["dialog"]) <= 10


def test_avsd_withholds_the_last_answer_of_test_only(world):
    for bare, full in zip(dialogs(world, "test"), dialogs(world, "lbl_test"), strict=True):
        assert bare["dialog"][:-1] == full["dialog"][:-1]
        assert bare["dialog"][-1] == full["dialog"][-1] | {"answer": "__UNDISCLOSED__"}
        assert "__UNDISCLOSED__" not in json.dumps(full)


def test_avsd_has_six_references_for_each_last_answer(world):
    content = read(world("audio") / "avsd" / "test_set4DSTC7-AVSD_multiref.json")
    for number, dialog in enumerate(dialogs(world, "lbl_test"), 1):
        name = f"{dialog['image_id']}_{len(dialog['dialog']) - 1}"
        assert content["images"][number - 1] == {"name": name, "id": number}
        texts = [c["caption"] for c in content["annotations"] if c["image_id"] == number]
        assert len(set(texts)) == 6
        assert all(dialog["dialog"][-1]["answer"] in text.split() for text in texts)
    assert len({c["id"] for c in content["annotations"]}) == 6 * len(content["images"])


def test_the_labels_of_sound_questions_are_official(world):
    avqa = read(world("audio") / "avqa" / "train_qa.json")
    assert {record["question_relation"] for record in avqa} == {"Sound", "Both"}
    assert {record["question_type"] for record in avqa} == {"Which", "Come From", "Happening"}
    for kind in ("Gemini", "Human"):
        assert {r["task_type"] for r in read(world("audio") / f"avut/AV_{kind}_data.json")} == {
            "Audio Information Extraction", "Audio Content Counting", "Audio Object Matching",
        }  # fmt: skip
    kinds = {
        "Audio": {"Counting", "Comparative"},
        "Visual": {"Counting", "Location"},
        "Audio-Visual": {"Existential", "Counting", "Location", "Comparative", "Temporal"},
    }
    for record in read(world("audio") / "music_avqa" / "avqa-train.json"):
        modality, kind = json.loads(record["type"])
        assert kind in kinds[modality]


def test_avqa_has_its_answers_at_every_position(world):
    answers = [record["answer"] for record in read(world("audio") / "avqa" / "train_qa.json")]
    shares = [answers.count(letter) / len(answers) for letter in range(4)]
    assert all(0.15 < share < 0.35 for share in shares), shares


@pytest.mark.parametrize("kind", ["Gemini", "Human"])
def test_no_letter_of_avut_is_right_more_often(world, kind):
    letters: dict[str, Counter[str]] = defaultdict(lambda: Counter(dict.fromkeys("ABCD", 0)))
    for record in read(world("audio") / "avut" / f"AV_{kind}_data.json"):
        for about in ("all", record["task_type"], record["question"]):
            letters[about][record["answer"]] += 1
    assert letters["all"].total() > 10
    for about, counts in letters.items():
        assert max(counts.values()) - min(counts.values()) <= 1, (about, counts)


def test_the_miniature_knows_every_word_and_says_every_letter_in_one_token(world):
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE)
    for benchmark, _, _ in readers("audio", world("audio")):
        for split in benchmark.splits():
            for question in (q for e in benchmark.episodes(split) for q in e.questions):
                for text in (question.prompt, *question.answers, *question.options):
                    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                    assert tokenizer.decode(ids) == text
                if question.options:
                    assert len(tokenizer(question.answers[0])["input_ids"]) == 1
