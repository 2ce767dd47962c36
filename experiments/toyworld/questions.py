"""Questions about a toy scene, with answers that follow from the scene alone.

Visual kinds can be answered from RGB, 3D kinds only with depth.
"""

from collections import Counter
from itertools import permutations
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.toyworld.scene import BANDS, COLOURS, SHAPES, Scene, ToyObject

ONE_OBJECT: Final = ("colour", "shape", "count", "exists", "where")
COMPARISONS: Final = ("left of", "above")
THREE_D: Final = ("distance", "closer", "in front")
"""Kinds of question by what they require: one object, two places, or depth."""

COUNTS = ("no", "one", "two", "three", "four")
# Smallest distance of a place from the centre, and of two places, in every frame; focal lengths.
OFF_CENTRE = 0.06
_APART = 0.12


class ToyQuestion(NamedTuple):
    """A question, its answer, and the indices of the objects that it names."""

    kind: str
    text: str
    answer: str
    objects: tuple[int, ...]


def questions(scene: Scene) -> list[ToyQuestion]:
    """Return all unambiguous questions about a scene."""
    return [*_about_one(scene), *_comparisons(scene), *_three_d(scene)]


def _about_one(scene: Scene) -> list[ToyQuestion]:
    objects = scene.objects
    asked = [ToyQuestion("count", "How many objects are there?", COUNTS[len(objects)], ())]
    places = scene.places()  # (T, K, 2)
    for k, thing in enumerate(objects):
        name = f"the {thing.colour} object"
        asked.append(ToyQuestion("shape", f"What shape is {name}?", thing.shape, (k,)))
        if _unique_shape(thing, scene):
            text = f"What colour is the {thing.shape}?"
            asked.append(ToyQuestion("colour", text, thing.colour, (k,)))
        for axis, ask, words in (
            (0, "on the left or on the right", ("left", "right")),
            (1, "at the top or at the bottom", ("top", "bottom")),
        ):
            side = side_of(places[:, k, axis], OFF_CENTRE)
            if side is not None:
                asked.append(ToyQuestion("where", f"Is {name} {ask}?", words[side], (k,)))
    return [*asked, *_existence(scene)]


def _existence(scene: Scene) -> list[ToyQuestion]:
    """Ask for as many objects that are absent as present; the absent share a colour or a shape."""
    random = np.random.default_rng(scene.index)
    present = {(thing.colour, thing.shape) for thing in scene.objects}
    colours = {colour for colour, _ in present}
    shapes = {shape for _, shape in present}
    absent = [
        (colour, shape)
        for colour in COLOURS
        for shape in SHAPES
        if (colour, shape) not in present and (colour in colours or shape in shapes)
    ]
    chosen = [absent[i] for i in random.permutation(len(absent))[: len(present)]]
    asked = []
    for k, thing in enumerate(scene.objects):
        text = f"Is there a {thing.colour} {thing.shape}?"
        asked.append(ToyQuestion("exists", text, "yes", (k,)))
    for colour, shape in chosen:
        asked.append(ToyQuestion("exists", f"Is there a {colour} {shape}?", "no", ()))
    return asked


def _comparisons(scene: Scene) -> list[ToyQuestion]:
    places = scene.places()
    asked = []
    for first, second in permutations(range(len(scene.objects)), 2):
        one, other = scene.objects[first].colour, scene.objects[second].colour
        for axis, kind in enumerate(COMPARISONS):
            side = side_of(places[:, first, axis] - places[:, second, axis], _APART)
            if side is not None:
                text = f"Is the {one} object {kind} the {other} object?"
                answer = ("yes", "no")[side]
                asked.append(ToyQuestion(kind, text, answer, (first, second)))
    return asked


def _three_d(scene: Scene) -> list[ToyQuestion]:
    asked = []
    for k, thing in enumerate(scene.objects):
        names = [f"the {thing.colour} object"]
        if _unique_shape(thing, scene):
            names.append(f"the {thing.shape}")
        for name in names:
            text = f"How far away is {name}?"
            asked.append(ToyQuestion("distance", text, thing.band, (k,)))
    order = list(BANDS)
    for first, second in permutations(range(len(scene.objects)), 2):
        one, other = scene.objects[first], scene.objects[second]
        if one.band == other.band:
            continue
        nearer = order.index(one.band) < order.index(other.band)
        text = f"Which is closer, the {one.colour} object or the {other.colour} object?"
        answer = one.colour if nearer else other.colour
        asked.append(ToyQuestion("closer", text, answer, (first, second)))
        text = f"Is the {one.colour} object in front of the {other.colour} object?"
        answer = "yes" if nearer else "no"
        asked.append(ToyQuestion("in front", text, answer, (first, second)))
    return asked


def _unique_shape(thing: ToyObject, scene: Scene) -> bool:
    return Counter(other.shape for other in scene.objects)[thing.shape] == 1


def side_of(values: NDArray[np.float64], margin: float) -> int | None:
    """Return 0 if all values are below −margin, 1 if all are above margin, else None."""
    if (values < -margin).all():
        return 0
    return 1 if (values > margin).all() else None
