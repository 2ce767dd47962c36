"""Instance labels beside the colour frames of a scene."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.media.instances import INSTANCES, instance_labels
from datamodules.samples import BadSample


def write_labels(scene: Path, labels: dict[int, np.ndarray]) -> None:
    (scene / INSTANCES).mkdir()
    for frame, values in labels.items():
        Image.fromarray(values).save(scene / INSTANCES / f"{frame}.png")


def files_of(scene: Path, *frames: int) -> list[Path]:
    parts = [("color", "jpg"), ("depth", "png"), ("pose", "txt")]
    return [scene / part / f"{frame}.{ext}" for frame in frames for part, ext in parts]


def labels_of(level: int, kind=np.uint8, size=(24, 32)) -> np.ndarray:
    return np.full(size, level, kind)


def test_labels_are_those_of_the_colour_frames_in_order(scene_folder):
    write_labels(scene_folder, {0: labels_of(5), 20: labels_of(6), 40: labels_of(300, np.uint16)})
    found = instance_labels([scene_folder / "intrinsic.txt", *files_of(scene_folder, 0, 40)])
    assert found.shape == (2, 24, 32)
    assert found[:, 0, 0].tolist() == [5, 300]


def test_a_scene_without_labels_and_other_media_have_none(scene_folder):
    assert instance_labels(files_of(scene_folder, 0)) is None
    assert instance_labels([scene_folder / "video.mp4"]) is None


def test_labels_of_another_size_are_refused(scene_folder):
    write_labels(scene_folder, {0: labels_of(1, size=(24, 30))})
    with pytest.raises(BadSample, match=r"0\.png: has 30 × 24 pixels, .*0\.jpg has 32 × 24"):
        instance_labels(files_of(scene_folder, 0))


def test_missing_and_coloured_labels_are_refused(scene_folder):
    write_labels(scene_folder, {0: np.zeros((24, 32, 3), np.uint8)})
    with pytest.raises(BadSample, match=r"0\.png: is an image of mode RGB, 8- or 16-bit grey"):
        instance_labels(files_of(scene_folder, 0))
    with pytest.raises(BadSample, match=r"20\.png: cannot be decoded"):
        instance_labels(files_of(scene_folder, 20))
