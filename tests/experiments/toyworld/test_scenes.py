"""Toy rooms: pixels and depth give every answer, and colour does not reveal distance."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiments.toyworld import render_scene, sample_scene
from experiments.toyworld.questions import (
    COMPARISONS,
    COUNTS,
    ONE_OBJECT,
    THREE_D,
    ToyQuestion,
    questions,
)
from experiments.toyworld.render import BACKGROUND, Rendered, intrinsics
from experiments.toyworld.scene import COLOURS, HALF_WIDTH, SHAPES, Scene
from tests.experiments.toyworld.pixels import CENTRE, nearest_colour

seeds, numbers = st.integers(0, 2**31), st.integers(0, 9999)
scenes = st.builds(sample_scene, seeds, numbers)


# Geometry ---------------------------------------------------------------------------------------


def test_walls_are_at_their_depth_in_mm(rooms):
    rows, columns = np.mgrid[:64, :64]
    pixels = np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1)
    rays = np.linalg.inv(intrinsics(64)) @ pixels
    for scene, rendered in rooms[:10]:
        width, length, height = scene.room
        for t, pose in enumerate(scene.poses):
            metres = rendered.depth[t].reshape(-1) / 1000
            points = pose[:3, :3] @ (rays * metres) + pose[:3, 3:]  # (3, H*W) in the world
            points = points[:, rendered.objects[t].reshape(-1) == BACKGROUND]
            reach = np.abs(points - [[0], [0], [height]]) / [[width], [length], [height]]
            assert np.abs(reach.max(0) - 1).max() < 6e-4  # 0.5 mm along the view axis


def test_objects_are_at_their_places_and_visible_in_every_frame(rooms):
    for scene, rendered in rooms:
        for k, thing in enumerate(scene.objects):
            x, y = np.rint(np.array(thing.place) * 32 / HALF_WIDTH + CENTRE).astype(int)
            assert rendered.objects[0, y, x] == k
            metres = rendered.depth[0][rendered.objects[0] == k] / 1000
            assert np.abs(metres - thing.distance).max() <= thing.radius + 1e-3
            assert ((rendered.objects == k).sum((1, 2)) >= 20).all()


@given(scenes)
def test_objects_keep_apart_and_inside_the_room(scene: Scene):
    places = np.array([o.place for o in scene.objects])
    radii = np.array([o.angular_radius for o in scene.objects])
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(len(places))
    assert (gaps > radii[:, None] + radii).all()
    assert len({o.colour for o in scene.objects}) == len(scene.objects)
    for o in scene.objects:
        sideways = np.hypot(o.distance + o.radius, abs(o.place[0]) * o.distance + o.radius)
        assert sideways < min(scene.room[:2])
        assert abs(o.place[1]) * o.distance + o.radius < scene.room[2]


@given(seeds, numbers)
def test_a_scene_depends_on_its_arguments_alone(seed: int, index: int):
    one, same = sample_scene(seed, index), sample_scene(seed, index)
    assert one.objects == same.objects
    assert (one.poses == same.poses).all()
    assert (one.room, one.wall) == (same.room, same.wall)
    more = sample_scene(seed, index, 16)
    assert more.objects == one.objects
    assert (more.poses[:4] == one.poses).all()


def test_the_rooms_that_the_miniature_was_trained_on_do_not_change():
    rooms = [[(o.colour, o.shape, o.band) for o in sample_scene(0, i).objects] for i in range(2)]
    assert rooms == [
        [
            ("blue", "cylinder", "far"),
            ("purple", "cone", "near"),
            ("yellow", "cone", "middle"),
            ("cyan", "box", "middle"),
        ],
        [("green", "box", "near"), ("yellow", "cylinder", "far"), ("cyan", "box", "middle")],
    ]


# What RGB does not reveal -----------------------------------------------------------------------


def test_distance_leaves_no_trace_in_colour(rooms):
    order = {"near": 2.2, "middle": 0.6, "far": 1.2}  # every object to another band, in m
    for scene, rendered in rooms[:20]:
        moved = tuple(replace(o, distance=order[o.band]) for o in scene.objects)
        other = render_scene(replace(scene, objects=moved))
        assert (other.depth != rendered.depth).any()
        same = (other.colour == rendered.colour).all(-1)
        assert same.mean() > 0.998  # rounding decides a pixel on an edge


def test_the_camera_only_rotates():
    for scene in (sample_scene(0, i) for i in range(50)):
        assert (scene.poses[:, :3, 3] == scene.poses[0, :3, 3]).all()
        turns = scene.poses[:, :3, :3]
        assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3))


def test_size_and_place_are_independent_of_distance():
    things = [o for i in range(3000) for o in sample_scene(7, i).objects]
    distance = [o.distance for o in things]
    for trait in (
        [o.angular_radius for o in things],
        [o.place[0] for o in things],
        [o.place[1] for o in things],
        [list(COLOURS).index(o.colour) for o in things],
    ):
        assert abs(np.corrcoef(distance, trait)[0, 1]) < 0.04  # 3.4 standard errors


# Questions --------------------------------------------------------------------------------------


class Observer:
    """Answers questions from object numbers, depth and colour, never from the scene's places."""

    def __init__(self, scene: Scene, rendered: Rendered) -> None:
        masks = [rendered.objects == k for k in range(rendered.objects.max() + 1)]
        self.colours = [self._colour(rendered.colour[mask].astype(float)) for mask in masks]
        self.shapes = [o.shape for o in scene.objects]  # the only fact that is taken on trust
        self.places = [self._places(mask) for mask in masks]  # K of (T, 2)
        self.metres = [float(np.median(rendered.depth[mask])) / 1000 for mask in masks]

    @staticmethod
    def _colour(pixels: Any) -> str:
        return nearest_colour(pixels[pixels.sum(-1).argmax()])

    @staticmethod
    def _places(mask: Any) -> Any:
        return np.array([np.argwhere(frame).mean(0)[::-1] - CENTRE for frame in mask])

    def find(self, name: str) -> int:
        known = self.colours if name in COLOURS else self.shapes
        (found,) = [k for k, known_name in enumerate(known) if known_name == name]
        return found

    def side(self, values: Any, words: tuple[str, str]) -> str:
        assert (np.sign(values) == np.sign(values[0])).all(), "frames disagree"
        return words[int(values[0] > 0)]

    def answer(self, question: ToyQuestion) -> str:
        words = question.text.rstrip("?").replace(",", "").split()
        named = [word for word in words if word in COLOURS or word in SHAPES]
        kind = question.kind
        if kind in {*COMPARISONS, "closer", "in front"}:
            return self._compare(kind, named)
        match kind:
            case "count":
                return COUNTS[len(self.colours)]
            case "colour":
                return self.colours[self.find(named[0])]
            case "shape":
                return self.shapes[self.find(named[0])]
            case "exists":
                there = list(zip(self.colours, self.shapes, strict=True))
                return "yes" if (named[0], named[1]) in there else "no"
            case "distance":
                metres = self.metres[self.find(named[0])]
                return "near" if metres < 0.38 else "middle" if metres < 0.8 else "far"
        axis, sides = (0, ("left", "right")) if "left" in words else (1, ("top", "bottom"))
        return self.side(self.places[self.find(named[0])][:, axis], sides)

    def _compare(self, kind: str, named: list[str]) -> str:
        first, second = map(self.find, named)
        nearer = self.metres[first] < self.metres[second]
        if kind == "closer":
            return named[0] if nearer else named[1]
        if kind == "in front":
            return "yes" if nearer else "no"
        apart = self.places[first] - self.places[second]
        return self.side(apart[:, COMPARISONS.index(kind)], ("yes", "no"))


def test_pixels_give_every_answer(rooms):
    seen: Counter[str] = Counter()
    for scene, rendered in rooms:
        observer = Observer(scene, rendered)
        for question in questions(scene):
            assert observer.answer(question) == question.answer, (scene.name, question)
            seen[question.kind] += 1
    assert min(seen[kind] for kind in (*ONE_OBJECT, *COMPARISONS, *THREE_D)) >= 30
