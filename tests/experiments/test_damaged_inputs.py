"""Some damaged inputs are read, and the harness tells every way in which a reading can go wrong."""

import ctypes
import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from datamodules.samples import BadSample
from experiments.robustness.damaged_inputs import WELL, inputs, make_originals, read_all, summary
from experiments.robustness.damages import DAMAGES
from experiments.robustness.watched import BAD, Canary, Reader
from tests.processes import PATIENCE_S


@pytest.fixture(scope="module")
def originals():
    return make_originals()


def test_damaged_inputs_are_read_or_refused(originals, tmp_path):
    chosen = list(inputs(originals, 60, seed=7))
    results = list(read_all(chosen, len(chosen), tmp_path, seconds=PATIENCE_S))
    assert len(results) == len(chosen)
    assert not [r.outcome for r in results if r.outcome.verdict in BAD]
    counts = Counter(r.outcome.verdict for r in results if r.input.damage != WELL)
    assert counts["well"] and counts["unreadable"]
    assert {r.outcome.verdict for r in results if r.input.damage == WELL} == {"well"}
    assert summary(results).row_count == 1 + sum(2 + len(damages) for damages in DAMAGES.values())


def test_the_seed_decides_everything(originals):
    one, same, other = (
        [(i.original.name, i.damage, i.content) for i in inputs(originals, 40, seed)]
        for seed in (3, 3, 4)
    )
    assert one == same != other
    again = {original.name: original.files for original in make_originals()}
    assert again == {original.name: original.files for original in originals}


def nothing(folder):
    return folder


def refuse(folder):
    raise BadSample(folder, "is bad", "Mend it", "silent")


def refuse_without_a_word(folder):
    raise BadSample(folder)


def fail(folder):
    raise KeyError("planted")


def crash(folder):
    ctypes.string_at(0)


def hang(folder):
    (folder / "begun").touch()
    ctypes.CDLL(None).pause()


def sleep(folder):
    (folder / "begun").touch()
    time.sleep(PATIENCE_S)


def leave(folder):
    os._exit(3)


def grow(folder):
    return bytearray(64 << 30)


def open_outside(folder):
    return Path(folder.parent, "outside", "secret.txt").read_bytes()


def start_a_program(folder):
    subprocess.run(["true"], check=True)


class Impatient(Reader):
    """Finds a reading too slow as soon as it has begun to hang."""

    def answered(self, seconds):
        begun = self.log.with_name("input") / "begun"
        while not begun.exists():
            if super().answered(0.01):
                return True
        begun.unlink()
        return False


@pytest.fixture
def reader(tmp_path):
    (tmp_path / "input").mkdir()
    reader = Impatient(tmp_path / "log", seconds=PATIENCE_S)
    yield lambda reading: reader.read(reading, tmp_path / "input")
    reader.close()


def test_every_way_to_go_wrong_is_told(reader, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    verdicts = {
        nothing: ("well", ""),
        refuse: ("silent", "is bad. Mend it"),
        refuse_without_a_word: ("crashed", "says too little"),
        fail: ("crashed", "KeyError: 'planted'"),
        crash: ("died", "Segmentation fault"),
        leave: ("died", "exit code 3"),
        grow: ("crashed", "MemoryError"),
        hang: ("too slow", "in hang"),
        sleep: ("too slow", "in sleep"),
        open_outside: ("opened outside", "secret.txt"),
        start_a_program: ("opened outside", "subprocess.Popen"),
    }
    for reading, (verdict, detail) in verdicts.items():
        outcome = reader(reading)
        assert outcome.verdict == verdict and detail in outcome.detail, (reading, outcome)
    assert reader(nothing).verdict == "well"


def test_c_libraries_cannot_open_the_canary_unseen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "secret").write_text("secret")
    canary = Canary(tmp_path)
    assert canary.opened() == []
    library = ctypes.CDLL(None)
    os.close(library.open(os.fsencode(tmp_path / "a" / "secret"), os.O_RDONLY))
    assert canary.opened() == [str(tmp_path / "a" / "secret")]
    assert canary.opened() == []
    canary.close()
