"""A file that kills, hangs or fills the process that reads it is one bad sample of a check."""

import csv
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules.base import ModalityDataModule
from datamodules.loading.coverage import check
from datamodules.loading.inspection import read_all
from datamodules.modalities.modality import Modality
from datamodules.modalities.video import VideoSource
from datamodules.samples import BadSample, Clip
from datamodules.splits import hold_out
from tests.processes import PATIENCE_S, wait_until
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted

SIZE = (4, 4)
ENDINGS = {
    "segv": ("the worker that was reading {} was killed by SIGSEGV", "breaks the library"),
    "kill": ("the worker that was reading {} was killed by SIGKILL", "Memory has probably run out"),
    "exit": ("the worker that was reading {} ended with exit code 0", "breaks the library"),
    "memory": ("there was not enough memory to read {}", "lower data.num_workers"),
    "bad": ("is bad", "Repair it"),
}


def render(path: Path) -> torch.Tensor:
    faulthandler.disable()
    match path.read_text():
        case "segv":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(0)
        case "memory":
            raise MemoryError
        case "bad":
            raise BadSample(path, "is bad", "Repair it")
        case "mistake":
            raise KeyError("planted")
        case "hang":
            path.with_suffix(".begun").touch()
            time.sleep(PATIENCE_S)
    return torch.zeros(2, 3, *SIZE, dtype=torch.uint8)


class Planted(Modality):
    """Two clips per file, the second of which is always good."""

    name = "planted"

    def find(self, root):
        train, val = hold_out([VideoSource(p.name, p) for p in sorted(root.glob("*.txt"))])
        return {"train": train, "val": val}

    def clips(self, source, spec):
        good = source.path.with_suffix(".good")
        return [Clip(path.name, partial(render, path), (path,)) for path in (source.path, good)]

    def reference_clips(self, source, spec):
        return self.clips(source, spec)[:1]


def plant(root: Path, *contents: str) -> Path:
    for number, content in enumerate(contents):
        (root / f"{number:02}.txt").write_text(content)
        (root / f"{number:02}.good").write_text("good")
    return root


def verdicts(root: Path, processes: int = 1, timeout: float = 0) -> Iterator:
    clips = [Clip(p.name, partial(render, p), (p,)) for p in sorted(root.glob("*.txt"))]
    return read_all(clips, processes, timeout)


def test_a_file_that_kills_its_process_is_one_bad_recording(tmp_path):
    root = plant(tmp_path, "good", *ENDINGS, *4 * ["good"])
    data = ModalityDataModule(root, [Planted()], frame_size=SIZE, num_workers=2)
    assert not check(data, tmp_path / "list.csv", coverage=1.0)
    with (tmp_path / "list.csv").open() as file:
        rows = list(csv.DictReader(file))
    for number, (reason, remedy) in enumerate(ENDINGS.values(), 1):
        name = f"{number:02}.txt"
        found = [row for row in rows if row["name"] == name]
        assert found and all(row["status"] == "unreadable" for row in found)
        for row in found:
            assert row["file"] == str(root / name)
            assert row["reason"] == reason.format(name) and remedy in row["remedy"]
    good = {row["name"] for row in rows if row["status"] == "ok"}
    assert good == {f"{number:02}.txt" for number in (0, 6, 7, 8, 9)}
    assert not multiprocessing.active_children()


def test_a_run_leaves_out_what_kills_its_process_and_keeps_the_other_clip(tmp_path):
    root = plant(tmp_path, "good", "good", "segv", *7 * ["good"])
    skip = {"on_bad_sample": "skip", "max_bad_share": 0.2, "frame_size": SIZE}
    data = ModalityDataModule(root, [Planted()], num_workers=2, batch_size=1, **skip)
    data.setup("fit")
    assert [str(bad.path) for bad in data.bad_samples] == [str(root / "02.txt")]
    trained = [name for batch in data.train_dataloader() for name in batch["clips"]]
    assert "02.txt" not in trained and "02.good" in trained


def test_a_file_that_takes_too_long_is_one_bad_sample(tmp_path, on_poll):
    root = plant(tmp_path, "good", "hang", "good")
    found = {}

    def hangs() -> bool:  # a clip that does not hang has all the time that it needs
        return 1 not in found and (root / "01.begun").exists()

    on_poll(lambda event: wait_until(lambda: event.is_set() or hangs()))
    found.update(verdicts(root, timeout=0.4))
    assert found.keys() == {0, 1, 2} and found[0] is found[2] is None
    assert found[1].path == root / "01.txt"
    assert found[1].reason.endswith("has not finished in data.timeout=0.4 s")
    assert "larger data.timeout" in found[1].remedy


def test_an_interrupted_check_leaves_no_process(tmp_path, monkeypatch):
    root = plant(tmp_path, "hang")
    asked = "datamodules.loading.inspection.asked_to_stop"
    monkeypatch.setattr(asked, (root / "00.begun").exists)
    with pytest.raises(Interrupted, match="Stopped while checking the data, as asked"):
        list(verdicts(root, 2))
    assert not multiprocessing.active_children()


def test_an_error_in_the_code_is_not_a_bad_file(tmp_path):
    root = plant(tmp_path, "mistake")
    with pytest.raises(KeyError, match=r"(?s)in render.*KeyError: 'planted'.*while 00\.txt"):
        list(verdicts(root))


def test_a_reader_that_cannot_be_pickled_is_named(tmp_path):
    clip = Clip("a", lambda: torch.zeros(1, 3, *SIZE, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"cannot be sent to another process .*num_workers=0"):
        list(read_all([clip], 1, 0))
