"""Damaged files and annotations are read as in a run: each is read well, or refused by a BadSample.

None may crash, hang, or make a reader open what is outside of its folder.
"""

import ctypes
import os
import subprocess
from pathlib import Path
from random import Random
from typing import get_args

import pytest

from datamodules.samples import BadSample, Trouble
from tests.robustness.annotation_inputs import annotations
from tests.robustness.damages import DAMAGES
from tests.robustness.inputs import write_files
from tests.robustness.media_inputs import sounds, video, videos
from tests.robustness.scene_inputs import cache_entry, meshes, recording, scene, scenes
from tests.robustness.watched import BAD, Canary, Outcome, Reader

LIBRARIES = ("av", "open3d", "torchaudio.functional")
VERDICTS = ("well", *get_args(Trouble), *BAD)
DAMAGED = [(kind, damage) for kind, damages in DAMAGES.items() for damage in damages]


@pytest.fixture(scope="module")
def originals():
    makers = (videos, sounds, scenes, recording, meshes, annotations, cache_entry)
    return [original for make in makers for original in make()]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Reads an original, damaged if there is content; what goes wrong is kept under a name."""
    world = tmp_path_factory.mktemp("world")
    folder, outside = world / "input", world / "outside"
    secrets = {"secret.mp4": video(".mp4"), "secret": video(".mp4")}
    secrets |= {f"secret.{suffix}": b"secret" for suffix in ("mtl", "png", "txt", "json")}
    write_files(outside, secrets | scene("scene"))
    canary = Canary(outside)
    reader = Reader(world / "log", libraries=LIBRARIES)

    def read(original, reading, name, content=None) -> Outcome:
        original.write(folder, outside, content)
        outcome = reader.read(reading, folder)
        if opened := canary.opened():
            outcome = Outcome("opened outside", f"{opened}\n{outcome.detail}")
        if outcome.verdict in BAD:
            folder.rename(world / name)
            outcome = outcome._replace(detail=f"{outcome.detail[-1000:]}\nkept in {world / name}")
        return outcome

    yield read
    reader.close()
    canary.close()


@pytest.mark.parametrize("kind", DAMAGES)
def test_undamaged_inputs_are_read_well(kind, originals, read):
    for original in originals:
        if original.kind == kind:
            for reading in original.readings:
                assert read(original, reading, "undamaged") == Outcome("well"), original.name


@pytest.mark.parametrize("count", [1, pytest.param(30, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize(("kind", "damage"), DAMAGED)
def test_damaged_inputs_are_read_or_refused(kind, damage, count, seed, originals, read, note):
    counts, wrong = dict.fromkeys(VERDICTS, 0), []
    of_kind = [original for original in originals if original.kind == kind]
    for number in range(count):
        random = Random(f"{seed} {kind} {damage} {number}")
        original = random.choice(of_kind)
        content = DAMAGES[kind][damage](random, original, originals)
        name = f"{kind}-{damage}-{number}".replace(" ", "-")
        outcome = read(original, random.choice(original.readings), name, content)
        counts[outcome.verdict] += 1
        if outcome.verdict in BAD:
            wrong.append(f"{original.name} {outcome.verdict}: {outcome.detail}")
    note("Damaged inputs", f"{kind}: {damage}", counts)
    assert not wrong, "\n\n".join(wrong)


def refuse_without_a_word(folder):
    raise BadSample(folder)


def fail(folder):
    raise KeyError("planted")


def crash(folder):
    ctypes.string_at(0)


def wait_for_ever(folder):
    ctypes.CDLL(None).pause()


def go_round(folder):
    while True:
        pass


def grow(folder):
    return bytearray(64 << 30)


def open_outside(folder):
    return Path(folder.parent, "secret").read_bytes()


def start_a_program(folder):
    subprocess.run(["true"], check=True)


def test_every_way_to_go_wrong_is_seen(tmp_path):
    """Planted readings, the last of which is well, so that a new process has begun for it."""
    (tmp_path / "secret").touch()
    (tmp_path / "input").mkdir()
    reader = Reader(tmp_path / "log", cpu=2)
    for reading, verdict, detail in (
        (refuse_without_a_word, "crashed", "says too little"),
        (fail, "crashed", "KeyError: 'planted'"),
        (grow, "crashed", "MemoryError"),
        (open_outside, "opened outside", "secret"),
        (start_a_program, "opened outside", "subprocess.Popen"),
        (crash, "died", "Segmentation fault"),
        (go_round, "too slow", "in go_round"),
        (wait_for_ever, "too slow", "in wait_for_ever"),
        (os.fspath, "well", ""),
    ):
        reader.polls = 30 if reading is wait_for_ever else 18_000
        outcome = reader.read(reading, tmp_path / "input")
        assert outcome.verdict == verdict and detail in outcome.detail, (reading, outcome)
    reader.close()


def test_c_libraries_cannot_open_the_canary_unseen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "secret").write_text("secret")
    canary = Canary(tmp_path)
    assert canary.opened() == []
    os.close(ctypes.CDLL(None).open(os.fsencode(tmp_path / "a" / "secret"), os.O_RDONLY))
    assert canary.opened() == [str(tmp_path / "a" / "secret")]
    canary.close()
