"""Training data of the miniature: RGB frames of toy rooms, and labels of what they show."""

import io
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from datamodules.processes import READERS
from experiments.toyworld.files import jpeg
from experiments.toyworld.questions import THREE_D, ToyQuestion, questions
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import COLOURS, SHAPES, sample_scene

_COVERED = 16  # pixels of a patch or cell that an object must cover to become its label
COLOUR_NAMES = list(COLOURS)


class Room(NamedTuple):
    """One scene; label 0 is background, and k + 1 is the k-th colour or shape."""

    frames: NDArray[np.uint8]  # (T, H, W, 3), as decoded from the toy world's JPEG
    patches: NDArray[np.int8]  # (T, P, P, 2) colour and shape label of a patch
    cells: NDArray[np.int8]  # (T, P/2, P/2, 2) the same of a pooled token
    places: NDArray[np.float32]  # (T, K, 2)
    things: NDArray[np.int8]  # (K, 2) colour and shape label of an object
    questions: list[ToyQuestion]


class Rooms(NamedTuple):
    """R scenes."""

    frames: Tensor  # (R, T, 3, H, W) uint8
    patches: Tensor  # (R, T, P, P, 2)
    cells: Tensor  # (R, T, P/2, P/2, 2)
    places: list[Tensor]  # R of (T, K, 2)
    things: list[Tensor]  # R of (K, 2)
    questions: list[list[ToyQuestion]]


def make_rooms(recipe: dict[str, Any], seed: int, count: int) -> Rooms:
    """Render ``count`` scenes of the toy world with that seed; visual questions only."""
    data, patch = recipe["data"], recipe["model"]["patch_size"]
    make = partial(_make_room, seed, frames=data["frames"], size=data["size"], patch=patch)
    with ProcessPoolExecutor(recipe["threads"], READERS) as pool:
        made = pool.map(make, range(count), chunksize=50)
        rooms = list(track(made, f"Rendering {count} rooms", count))
    return Rooms(
        torch.from_numpy(np.stack([room.frames for room in rooms])).permute(0, 1, 4, 2, 3),
        torch.from_numpy(np.stack([room.patches for room in rooms])).long(),
        torch.from_numpy(np.stack([room.cells for room in rooms])).long(),
        [torch.from_numpy(room.places) for room in rooms],
        [torch.from_numpy(room.things).long() for room in rooms],
        [room.questions for room in rooms],
    )


def _make_room(seed: int, index: int, frames: int, size: int, patch: int) -> Room:
    scene = sample_scene(seed, index, frames)
    rendered = render_scene(scene, size)
    decoded = [np.asarray(Image.open(io.BytesIO(jpeg(frame)))) for frame in rendered.colour]
    names = np.array(
        [(0, 0)]
        + [(COLOUR_NAMES.index(o.colour) + 1, SHAPES.index(o.shape) + 1) for o in scene.objects],
        dtype=np.int8,
    )
    return Room(
        np.stack(decoded),
        names[_dominant(rendered.objects, patch) + 1],
        names[_dominant(rendered.objects, 2 * patch) + 1],
        scene.places().astype(np.float32),
        names[1:],
        [question for question in questions(scene) if question.kind not in THREE_D],
    )


def _dominant(objects: NDArray[np.int16], tile: int) -> NDArray[np.intp]:
    """Return the object that covers most of each tile, or −1; (T, H/tile, W/tile)."""
    frames, height, width = objects.shape
    tiles = objects.reshape(frames, height // tile, tile, width // tile, tile)
    counts = np.stack([(tiles == k).sum((2, 4)) for k in range(objects.max() + 1)], -1)
    best: NDArray[np.intp] = counts.argmax(-1)
    best[counts.max(-1) < _COVERED] = -1
    return best
