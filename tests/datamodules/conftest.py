"""Small scenes in ScanNet's exported layout, and a hook into the supervision of workers."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Event

import av
import numpy as np
import pytest
from PIL import Image

WriteScene = Callable[..., Path]


def write_scannet_scene(
    folder: Path,
    frames: Sequence[int] = (0, 20, 40),
    colour_size: tuple[int, int] = (24, 32),
    depth_size: tuple[int, int] = (12, 16),
) -> Path:
    """Frame i is a flat colour of level i, and a slanted wall at 1000 + i mm."""
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    height, width = depth_size
    for frame in frames:
        colour = np.full((*colour_size, 3), frame % 256, np.uint8)
        Image.fromarray(colour).save(folder / "color" / f"{frame}.jpg", quality=95)
        depth = np.arange(width, dtype=np.uint16) * np.ones((height, 1), np.uint16) + 1000 + frame
        Image.fromarray(depth.astype(np.uint16)).save(folder / "depth" / f"{frame}.png")
        np.savetxt(folder / "pose" / f"{frame}.txt", np.eye(4), fmt="%.6f")
    camera = np.diag([width, width, 1.0, 1.0])
    camera[:2, 2] = (width - 1) / 2, (height - 1) / 2
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", camera, fmt="%.6f")
    return folder


def write_scannet_scenes(root: Path, count: int) -> None:
    """Scenes of four frames under scans/, each darker than the next."""
    for number in range(count):
        frames = [70 * number + 20 * i for i in range(4)]
        write_scannet_scene(root / "scans" / f"scene000{number}_00", frames)


def write_scanqa(root: Path, split: str, questions: Iterable[tuple[int, str, str]]) -> None:
    """Write ScanQA's file of a split: (scene, id, question), each answered "grey"."""
    records = [
        {
            "scene_id": f"scene000{scene}_00",
            "question_id": identifier,
            "question": question,
            "answers": ["grey"],
            "object_ids": [],
            "object_names": [],
        }
        for scene, identifier, question in questions
    ]
    (root / f"ScanQA_v1.0_{split}.json").write_text(json.dumps(records))


@pytest.fixture
def write_scene() -> WriteScene:
    """Writes a scene: (folder, frames, colour_size, depth_size) -> folder."""
    return write_scannet_scene


@pytest.fixture
def scene_folder(tmp_path: Path) -> Path:
    """One scene of three frames."""
    return write_scannet_scene(tmp_path / "scene0000_00")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five scenes under scans/, of three frames each."""
    for number in range(5):
        frames = [100 * number + 20 * i for i in range(3)]
        write_scannet_scene(tmp_path / "scans" / f"scene000{number}_00", frames)
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    """The containers that PyAV has opened so far."""
    containers, original = [], av.open
    monkeypatch.setattr(
        av, "open", lambda *a, **k: containers.append(original(*a, **k)) or containers[-1]
    )
    return containers


@pytest.fixture
def on_poll(monkeypatch):
    """Sets a function of an event that is called whenever workers are looked at."""

    def set_function(function: Callable[[Event], object]) -> None:
        class Polled(Event):
            def wait(self, timeout=None):
                function(self)
                return super().wait(timeout)

        monkeypatch.setattr("datamodules.loading.supervision.Event", Polled)

    return set_function
