"""Files that kill, hang or fill the process that reads them cost themselves, and not the check."""

import csv
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules.base import ModalityDataModule
from datamodules.loading.coverage import check
from datamodules.loading.readers import Job, read_all
from datamodules.loading.reading import ReadClip
from datamodules.modalities.modality import Modality
from datamodules.samples import BadSample, Clip
from datamodules.splits import hold_out
from tests.datamodules.test_base import Text
from tests.processes import PATIENCE_S
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted

CODES = "the process that read it ended with exit code"
ENDINGS = {
    "segv": ("the process that read it was killed by SIGSEGV", "breaks the library"),
    "kill": ("the process that read it was killed by SIGKILL", "Memory has probably run out"),
    "exit 0": (f"{CODES} 0", "breaks the library"),
    "exit 3": (f"{CODES} 3", "breaks the library"),
    "memory": ("there was not enough memory to read it", "lower data.num_workers"),
    "bad": ("is bad", "Mend it"),
}


def draw(path: Path) -> torch.Tensor:
    faulthandler.disable()
    match path.read_text():
        case "segv":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit 0":
            os._exit(0)
        case "exit 3":
            sys.exit(3)
        case "memory":
            raise MemoryError
        case "bad":
            raise BadSample(path, "is bad", "Mend it")
        case "mistake":
            raise KeyError("planted")
        case "hang":
            path.with_suffix(".begun").touch()
            time.sleep(PATIENCE_S)
    return torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


class Planted(Modality):
    """Two clips a file, the second of which is always good."""

    name = "planted"

    def find(self, root):
        train, val = hold_out([Text(path.name, path) for path in sorted(root.glob("*.txt"))])
        return {"train": train, "val": val}

    def clips(self, source, spec):
        good = source.path.with_suffix(".good")
        return [Clip(path.name, partial(draw, path), (path,)) for path in (source.path, good)]

    def reference_clips(self, source, spec):
        return self.clips(source, spec)[:1]


def plant(root: Path, *contents: str) -> Path:
    for number, content in enumerate(contents):
        (root / f"{number:02}.txt").write_text(content)
        (root / f"{number:02}.good").write_text("good")
    return root


def job(root: Path, number: int = 0) -> Job:
    paths = sorted(root.glob("*.txt"))
    return Job(number, [Clip(p.name, partial(draw, p), (p,)) for p in paths], ReadClip((4, 4)))


@pytest.mark.parametrize("readers", [1, 3])
def test_a_file_that_takes_its_reader_down_is_one_bad_recording(readers, tmp_path):
    root = plant(tmp_path, "good", *ENDINGS, *4 * ["good"])
    data = ModalityDataModule(root, [Planted()], frame_size=(4, 4), num_workers=readers)
    assert not check(data, tmp_path / "list.csv", coverage=1.0)
    with (tmp_path / "list.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {f"{number:02}.txt" for number in range(11)}
    for number, (reason, remedy) in enumerate(ENDINGS.values(), 1):
        found = [row for row in rows if row["name"] == f"{number:02}.txt"]
        assert found and all(row["status"] == "unreadable" for row in found)
        for row in found:
            assert row["file"] == str(root / f"{number:02}.txt")
            assert row["reason"] == reason and remedy in row["remedy"]
    good = {row["name"] for row in rows if row["status"] == "ok"}
    assert good == {f"{number:02}.txt" for number in (0, 7, 8, 9, 10)}
    assert not multiprocessing.active_children()


def test_a_run_leaves_out_what_kills_its_reader_and_keeps_the_other_clip(tmp_path):
    root = plant(tmp_path, *9 * ["good"], "segv")
    (root / "09.txt").rename(root / "02.txt")
    skip = {"on_bad_sample": "skip", "max_bad_share": 0.2, "frame_size": (4, 4)}
    data = ModalityDataModule(root, [Planted()], num_workers=2, batch_size=1, **skip)
    data.setup("fit")
    assert [str(bad.path) for bad in data.bad_samples] == [str(root / "02.txt")]
    trained = [name for batch in data.train_dataloader() for name in batch["clips"]]
    assert "02.txt" not in trained and "02.good" in trained


def test_a_file_that_takes_too_long_is_one_bad_sample(tmp_path, monkeypatch):
    root = plant(tmp_path, "good", "hang")
    now = 0

    def clock():
        nonlocal now
        now += (root / "01.begun").exists()
        return now

    monkeypatch.setattr("datamodules.loading.readers.monotonic", clock)
    [(number, [good, bad])] = read_all([job(root, 7)], 1, 0.4, lambda: None)
    assert (number, good, bad.path) == (7, None, root / "01.txt")
    assert "longer than data.timeout=0.4 s" in bad.reason and "raise data.timeout" in bad.remedy


def test_a_reader_that_is_killed_while_it_reads_nothing_costs_no_file(tmp_path):
    root = plant(tmp_path, "good")

    def jobs():
        yield job(root, 0)
        [reader] = multiprocessing.active_children()
        reader.kill()
        reader.join()
        yield job(root, 1)

    assert list(read_all(jobs(), 1, 0, lambda: None)) == [(0, [None]), (1, [None])]


def test_who_stops_a_check_leaves_no_reader(tmp_path):
    root = plant(tmp_path, "hang")

    def look():
        if (root / "00.begun").exists():
            raise Interrupted("asked")

    with pytest.raises(Interrupted):
        list(read_all([job(root, 0)], 2, 0, look))
    assert not multiprocessing.active_children()


def test_a_mistake_in_the_code_is_no_bad_file(tmp_path):
    root = plant(tmp_path, "mistake")
    with pytest.raises(RuntimeError, match=r"(?s)in draw.*KeyError: 'planted'.*while 00\.txt"):
        list(read_all([job(root, 0)], 1, 0, lambda: None))


def test_what_cannot_travel_is_told(tmp_path):
    clip = Clip("a", lambda: torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"cannot be sent to another process .*num_workers=0"):
        list(read_all([Job(0, [clip], ReadClip((4, 4)))], 1, 0, lambda: None))


def test_readers_are_deaf_to_what_is_sent_to_a_whole_job(tmp_path):
    root = plant(tmp_path, "good", "good")

    def jobs():
        yield job(root, 0)
        [reader] = multiprocessing.active_children()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(reader.pid, number)
        before.append(reader.pid)
        yield job(root, 1)
        [reader] = multiprocessing.active_children()
        before.append(reader.pid)

    before: list[int] = []
    assert len(list(read_all(jobs(), 1, 0, lambda: None))) == 2
    assert before[0] == before[1]
