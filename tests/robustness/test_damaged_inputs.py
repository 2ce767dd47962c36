"""Damaged files and annotations are either read well or refused with a BadSample.

They are read as in a run. None may crash or hang a reader, or make it open a file outside its
folder.
"""

import ctypes
import os
from pathlib import Path
from random import Random
from typing import get_args

import pytest

from datamodules.samples import Trouble
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
    """A function that reads an original, with other content if given; failures are kept by name."""
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


@pytest.mark.parametrize("count", [1, pytest.param(25, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize(("kind", "damage"), DAMAGED)
def test_damaged_inputs_are_read_or_refused(kind, damage, count, seed, originals, read, note):
    counts, wrong = dict.fromkeys(VERDICTS, 0), []
    of_kind = [original for original in originals if original.kind == kind]
    for number in range(3 * count if kind == "annotations" else count):
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


def fail(folder):
    raise KeyError("planted")


def crash(folder):
    ctypes.string_at(0)


def loop(folder):
    while True:
        pass


def grow(folder):
    return bytearray(64 << 30)


def open_outside(folder):
    return Path(folder.parent, "outside", "secret").read_bytes()


def test_every_way_to_go_wrong_is_noticed(tmp_path):
    """The last reading is well, since a new process has started for it."""
    for name in ("outside", "input"):
        (tmp_path / name).mkdir()
    secret = tmp_path / "outside" / "secret"
    secret.touch()
    reader = Reader(tmp_path / "log", cpu=2)
    for reading, verdict, detail in (
        (fail, "crashed", "KeyError: 'planted'"),
        (grow, "crashed", "MemoryError"),
        (open_outside, "opened outside", "secret"),
        (crash, "died", "Segmentation fault"),
        (loop, "too slow", "in loop"),
        (os.fspath, "well", ""),
    ):
        outcome = reader.read(reading, tmp_path / "input")
        assert outcome.verdict == verdict and detail in outcome.detail, (reading, outcome)
    reader.close()
    canary = Canary(tmp_path / "outside")
    os.close(ctypes.CDLL(None).open(os.fsencode(secret), os.O_RDONLY))  # unseen by Python
    assert canary.opened() == [str(secret)]
    canary.close()
