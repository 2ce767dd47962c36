"""What all data modules share, on a modality whose recordings are small text files."""

import csv
import io
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import ModalityDataModule
from datamodules.benchmarks.base import Benchmark, QuestionRecord
from datamodules.benchmarks.records import read_records
from datamodules.loading.coverage import check
from datamodules.modalities.modality import Modality
from datamodules.modalities.video import VideoSource
from datamodules.samples import BadSample, Clip, Frames, Question, Streams
from datamodules.splits import hold_out
from vlynx_pl.io.errors import UserError

SMALL = {"frame_size": (4, 6), "num_workers": 0, "batch_size": 2}


def grey(path: Path) -> torch.Tensor:
    """Frames as grey as the number in the file; every reading leaves a mark."""
    level = path.read_text()
    if not level.isdecimal():
        raise BadSample(
            path, "holds no number", "Write one", "silent" if not level else "unreadable"
        )
    with (path.parent / "opened").open("a") as marks:
        marks.write("x")
    return torch.full((2, 3, 8, 8), int(level), dtype=torch.uint8)


def both(path: Path, stream: str) -> dict[str, Frames]:
    frames = grey(path)
    return {"video": Frames(frames, (0.0, 1.0)), stream: Frames(255 - frames, (0.0, 0.5))}


class Texts(Modality):
    name = "text"

    def find(self, root):
        train, val = hold_out([VideoSource(p.stem, p) for p in sorted(root.glob("*.txt"))])
        return {"train": train, "val": val}

    def locate(self, root, episode):
        path = root / episode.media["video"]
        if not path.exists():
            raise BadSample(path, "is not there", "Write it", "missing")
        return VideoSource(episode.name, path)

    def clips(self, source, spec):
        return [Clip(source.name, partial(grey, source.path), (source.path,))]

    reference_clips = clips

    def streams(self, source, spec):
        return Streams(partial(both, source.path, self.name), (source.path,))


class Others(Texts):
    name = "other"


def texts(root, kind=Texts, **options):
    return ModalityDataModule(root, [kind()], **SMALL | options)


class Quiz(Benchmark):
    names: ClassVar = {"train": ("train.json",), "val": ("val.json",), "test": ("test.json",)}

    def read(self, split, files):
        for record in read_records(*files, "id"):
            question = Question(record.identifier("id"), record.text("ask"), (record.text("say"),))
            yield QuestionRecord(
                record, record.text("clip"), {"video": record.media("clip")}, question
            )


def ask(root: Path, split: str, numbers: str) -> None:
    """Write one question about each numbered text file."""
    records = [
        {"id": f"{split}{i}", "ask": f"{number}?", "say": "yes", "clip": f"{number}.txt"}
        for i, number in enumerate(numbers)
    ]
    (root / f"{split}.json").write_text(json.dumps(records))


@pytest.fixture
def root(tmp_path) -> Path:
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text(str(10 * i))
    return tmp_path


@pytest.fixture
def quiz(root) -> Quiz:
    for split, numbers in (("train", "0011"), ("val", "2"), ("test", "3")):
        ask(root, split, numbers)
    return Quiz(root)


def ready(root, stage="fit", **options):
    data = texts(root, **options)
    data.setup(stage)
    return data


def clips(loader):
    return [name for batch in loader for name in batch["clips"]]


def marks(root) -> int:
    opened = root / "opened"
    return len(opened.read_text()) if opened.exists() else 0


def test_tuning_gives_a_clip_with_all_its_questions(root, quiz):
    data = ready(root, benchmark=quiz, objective="tuning")
    [batch] = data.train_dataloader()
    by_name = {episode["name"]: episode for episode in batch}
    assert set(by_name) == {"0.txt", "1.txt"}
    episode = by_name["1.txt"]
    assert [question.id for question in episode["questions"]] == ["train2", "train3"]
    assert list(episode["streams"]) == ["video", "text"]
    assert episode["times"] == {"video": (0.0, 1.0), "text": (0.0, 0.5)}
    video, text = episode["streams"].values()
    assert video.shape == (2, 3, 4, 6) and video.dtype == torch.uint8
    assert (video == 10).all() and (text == 245).all()
    data.setup("test")
    [[held_out]], [[tested]] = data.val_dataloader(), data.test_dataloader()
    assert (held_out["name"], tested["name"]) == ("2.txt", "3.txt")
    with pytest.raises(UserError, match=r"data\.objective=tuning has no reference videos"):
        data.reference_dataloader()


def test_alignment_on_a_benchmark_sees_its_training_media_once_and_no_others(root, quiz):
    ask(root, "train", "001123")  # 2 and 3 are in val and test
    data = ready(root, benchmark=quiz)
    assert sorted(clips(data.train_dataloader())) == ["0.txt", "1.txt"]
    assert clips(data.val_dataloader()) == ["2.txt"]
    assert sorted(clips(data.reference_dataloader())) == ["0.txt", "1.txt"]
    assert data.report()["left_out"] == [
        f"{c}.txt: is in val or test as well as in train" for c in ("2", "3")
    ]


@pytest.mark.parametrize(("share", "held_out"), [(0.2, 1), (0.5, 4), (0.01, 1)])
def test_a_benchmark_without_val_file_holds_out_training_clips(root, quiz, share, held_out):
    (root / "val.json").unlink()
    ask(root, "train", "01456789")
    data = ready(root, benchmark=quiz, held_out=share)
    assert len(clips(data.train_dataloader())) == 8 - held_out
    assert clips(data.val_dataloader()) == [f"{i}.txt" for i in range(10 - held_out, 10)]


@pytest.mark.parametrize(
    ("modalities", "options", "message"),
    [
        ([], {}, r"experiments/align/<modality>\.yaml"),
        ([Texts()], {"objective": "tuning"}, r"objective=tuning .*data\.benchmark"),
        ([Texts(), Texts()], {}, r"two modalities have the same name \(text, text\)"),
        ([Texts(), Others()], {}, "one modality at a time, not 2"),
        ([Texts(frames=0)], {}, "frames=0 of text must be 1 or more"),
        ([Texts()], {"batch_size": 0}, r"data\.batch_size=0 must be 1 or more"),
        ([Texts()], {"held_out": 1.0}, r"data\.held_out=1\.0 must be between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(modalities, options, message):
    with pytest.raises(UserError, match=message):
        ModalityDataModule("anywhere", modalities, **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_epoch_from_the_cache_opens_no_file(root, tmp_path, workers):
    loader = ready(root, cache_dir=tmp_path / "cache", num_workers=workers).train_dataloader()
    first, read = list(loader), marks(root)
    assert read == 8
    second = list(loader)
    assert marks(root) == read
    first, second = (torch.cat([batch["frames"] for batch in epoch]) for epoch in (first, second))
    assert torch.equal(first.sort(0).values, second.sort(0).values)


def test_a_cached_episode_keeps_streams_times_and_questions(root, quiz, tmp_path):
    options = {"benchmark": quiz, "objective": "tuning", "cache_dir": tmp_path / "cache"}
    [[fresh]] = ready(root, **options).val_dataloader()
    read = marks(root)
    [[cached]] = ready(root, **options).val_dataloader()
    assert marks(root) == read
    assert list(cached["streams"]) == ["video", "text"]
    assert cached["times"] == fresh["times"] and cached["questions"] == fresh["questions"]
    assert all(torch.equal(cached["streams"][k], fresh["streams"][k]) for k in fresh["streams"])


def test_cache_entries_belong_to_one_modality_or_its_video(root, tmp_path):
    class White(Texts):
        def clips(self, source, spec):
            read = partial(torch.full, (2, 3, 8, 8), 255, dtype=torch.uint8)
            return [Clip(source.name, read, (source.path,))]

    for kind, white in ((Texts, False), (White, True), (Texts, False)):
        data = texts(root, kind, cache_dir=tmp_path / "cache")
        data.setup("fit")
        assert all((b["frames"] == 255).all() == white for b in data.train_dataloader())
        assert max(batch["frames"].max() for batch in data.reference_dataloader()) < 255


def test_a_changed_file_or_setting_is_read_again(root, tmp_path):
    cache = tmp_path / "cache"
    clips(ready(root, cache_dir=cache).val_dataloader())
    (root / "8.txt").write_text("200")
    frames = next(iter(ready(root, cache_dir=cache).val_dataloader()))["frames"]
    assert (frames[0] == 200).all() and (frames[1] == 90).all()
    larger = next(iter(ready(root, cache_dir=cache, frame_size=(8, 8)).val_dataloader()))
    assert larger["frames"].shape[-2:] == (8, 8)


def test_reference_videos_may_be_in_another_folder(root, quiz, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for i in range(10):
        (other / f"{i}.txt").write_text(str(100 + i))
    data = ready(root, benchmark=quiz, reference_root=other)
    batches = list(data.reference_dataloader())
    assert sorted(clips(batches)) == ["0.txt", "1.txt"]
    assert min(batch["frames"].min() for batch in batches) >= 100
    (other / "99.txt").write_text("1")  # now 8 is not held out there
    (other / "98.txt").write_text("1")
    with pytest.raises(BadSample, match=r"8\.txt: would be a reference video, but .* holds it out"):
        ready(root, reference_root=other)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_in_a_run_is_one_message(root, workers):
    (root / "9.txt").write_text("")
    data = ready(root, num_workers=workers)
    with pytest.raises(BadSample) as caught:
        clips(data.val_dataloader())
    assert str(caught.value) == f"{root / '9.txt'}: holds no number. Write one"
    assert caught.value.path == root / "9.txt" and caught.value.trouble == "silent"


def test_an_error_in_the_code_does_not_wait_for_the_queue(root, monkeypatch):
    read, shut_down = [], Event()

    class Broken(Texts):
        def clips(self, source, spec):
            read.append(source)
            if len(read) > 1:
                shut_down.wait()
            raise RuntimeError("a mistake in the code")

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, **options):
            super().shutdown(wait=False, **options)
            shut_down.set()
            super().shutdown(wait)

    monkeypatch.setattr("datamodules.loading.inspection.ThreadPoolExecutor", Pool)
    for i in range(200):
        (root / f"1{i:03}.txt").write_text("1")
    with pytest.raises(RuntimeError, match="a mistake"):
        texts(root, Broken).setup("fit")
    assert len(read) < 150


def test_one_recording_is_not_enough(tmp_path):
    (tmp_path / "0.txt").write_text("1")
    with pytest.raises(BadSample, match=r"leaves no train clip of 1 recordings.* held out"):
        ready(tmp_path)
    assert not check(texts(tmp_path))


def test_too_large_a_share_of_bad_recordings_stops_the_run(root):
    for i in (0, 9):
        (root / f"{i}.txt").write_text("loud")
    with pytest.raises(
        BadSample, match=r"(?s)2 bad recordings of 10, .*max_bad_share=0\.1.*no number"
    ):
        ready(root, on_bad_sample="skip")
    data = ready(root, on_bad_sample="skip", max_bad_share=0.2)
    assert len(clips(data.train_dataloader())) == 7
    assert len(data.report()["skipped"]) == 2
    assert "2 skipped" in repr(data)


def test_batches_need_setup(root):
    with pytest.raises(RuntimeError, match=r"ModalityDataModule\.setup\('fit'\)"):
        texts(root).train_dataloader()


def test_coverage_counts_each_kind_of_trouble(root, quiz, tmp_path, capsys):
    (root / "1.txt").write_text("loud")
    (root / "2.txt").write_text("")
    (root / "3.txt").unlink()
    data = texts(root, benchmark=quiz, objective="tuning")
    assert not check(data, tmp_path / "list.csv", coverage=0.5)
    rows = (tmp_path / "list.csv").read_text().splitlines()
    assert rows[0] == "part,name,status,file,reason,remedy"
    assert [row.split(",")[:3] for row in rows[1:]] == [
        ["train", "0.txt", "ok"],
        ["train", "1.txt", "unreadable"],
        ["val", "2.txt", "silent"],
        ["test", "3.txt", "missing"],
    ]
    shown = capsys.readouterr().out
    assert "train: 1" not in shown
    assert "val: 0 of 1 recordings can be used, fewer than 50%: " in shown
    assert check(texts(root, benchmark=quiz, objective="tuning"), coverage=0)
    (root / "train.json").unlink()
    (root / "2.txt").write_text("2")
    (root / "3.txt").write_text("3")
    assert check(texts(root, benchmark=quiz)), "a benchmark may have no training clips"


@pytest.mark.parametrize("objective", ["alignment", "tuning"])
def test_a_contact_sheet_shows_the_first_frames(root, quiz, tmp_path, objective):
    data = texts(root, benchmark=quiz, objective=objective)
    check(data, picture=tmp_path / "frames.png")
    sheet = np.asarray(Image.open(tmp_path / "frames.png").convert("L"))
    # Frames of levels 0, 10, 20 and 30 are the only large dark areas on white.
    assert {level for level in (0, 10, 20, 30) if (sheet == level).sum() > 1000} == {0, 10, 20, 30}
    for path in root.glob("*.txt"):
        path.write_text("loud")
    with pytest.raises(BadSample, match="nothing usable to draw"):
        check(data, picture=tmp_path / "frames.png")


def test_several_modalities_of_one_clip(root, quiz, tmp_path):
    elsewhere = shutil.copytree(root, tmp_path / "elsewhere")
    (elsewhere / "2.txt").write_text("70")
    modalities = [Texts(), Others(root=elsewhere)]
    data = ModalityDataModule(root, modalities, benchmark=quiz, objective="tuning", **SMALL)
    data.setup("fit")
    [[episode]] = data.val_dataloader()
    assert list(episode["streams"]) == ["video", "text", "other"]
    assert all(stream.shape == (2, 3, 4, 6) for stream in episode["streams"].values())
    assert [int(stream[0, 0, 0, 0]) for stream in episode["streams"].values()] == [20, 235, 185]
    kinds = [kind.split(".")[-1] for kind, _ in data.preprocessing["modalities"]]
    assert kinds == ["Texts", "Others"]


def unfit(question, learnt):
    """Questions of one record are bad, and of another if they are to be learnt."""
    bad = {"train1", "test0"} | ({"val0"} if learnt else set())
    return f"question {question.id} is odd" if question.id in bad else None


def judged(root, quiz, **options):
    data = texts(root, benchmark=quiz, objective="tuning", **options)
    data.unfit = unfit
    return data


def test_a_bad_question_stops_before_anything_is_read(root, quiz):
    with pytest.raises(BadSample, match=r"train\.json: question train1 is odd\. Correct the ann"):
        judged(root, quiz).setup("fit")
    assert marks(root) == 0


def test_a_bad_question_is_skipped_and_its_clip_is_not(root, quiz):
    ask(root, "val", "24")
    ask(root, "test", "33")
    data = judged(root, quiz, on_bad_sample="skip", max_bad_share=1.0)
    data.setup("fit")
    asked = [[one.id for one in episode.questions] for episode in data.episodes("train")]
    assert asked == [["train0"], ["train2", "train3"]]
    [left_out] = data.failed_episodes("train")
    assert left_out.name == "0.txt" and [one.id for one in left_out.questions] == ["train1"]
    assert [bad.trouble for bad in data.bad_samples] == ["question", "question"]
    assert "train1 is odd" in data.report()["skipped"][0]
    data = judged(root, quiz, on_bad_sample="skip", max_bad_share=1.0)
    data.setup("test")  # questions that are only asked need not be fit to be learnt
    assert [one.id for one in data.episodes("test")[0].questions] == ["test1"]
    assert [one.id for one in data.failed_episodes("test")[0].questions] == ["test0"]
    data.test_split = "val"
    data.setup("test")
    assert data.failed_episodes("val") == []


def test_check_names_bad_questions(root, quiz, capsys):
    assert not check(judged(root, quiz), root / "found.csv")
    rows = list(csv.reader((root / "found.csv").open(encoding="utf-8")))
    bad = [(row[0], row[1], row[2], row[4]) for row in rows[1:] if row[2] != "ok"]
    assert bad == [
        ("train", "0.txt", "question", "question train1 is odd"),
        ("val", "2.txt", "question", "question val0 is odd"),
        ("test", "3.txt", "question", "question test0 is odd"),
    ]
    assert "question" in capsys.readouterr().out


NAMES = [
    b"latin\xe9",
    b"new\nline",
    b'tab\t,comma"',
    "e\u0301😀".encode(),
    b"[bold]",
    b"-lead%#$x$",
]


def test_check_takes_files_of_any_name(root, tmp_path, monkeypatch):
    """The table is UTF-8, and so are the lines on a terminal that is strict about it."""
    folder = tmp_path / "[red]$a$"
    folder.mkdir()
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".txt")).write_text("7")
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "300")
    data = texts(folder)
    assert check(data, tmp_path / "found.csv", picture=tmp_path / "drawn.png")
    rows = list(csv.reader((tmp_path / "found.csv").open(encoding="utf-8", newline="")))[1:]
    wanted = {
        name.decode("utf-8", "surrogateescape").replace("\udce9", r"\udce9") for name in NAMES
    }
    assert {row[1] for row in rows if row[0] in {"train", "val"}} == wanted
    assert (tmp_path / "drawn.png").stat().st_size > 0
    screen.flush()
    assert "[red]$a$" in screen.buffer.getvalue().decode()
