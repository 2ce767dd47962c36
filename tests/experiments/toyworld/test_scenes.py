"""Toy rooms: where things are, and that colour says nothing of distance."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from experiments.toyworld import render_scene, sample_scene
from experiments.toyworld.render import BACKGROUND, Rendered, intrinsics
from experiments.toyworld.scene import COLOURS, HALF_WIDTH, Scene

worlds = st.builds(sample_scene, st.integers(0, 2**31), st.integers(0, 9999))


# Geometry ---------------------------------------------------------------------------------------


def test_walls_are_where_depth_in_mm_says(rooms: list[tuple[Scene, Rendered]]) -> None:
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


def test_objects_are_where_the_scene_says(rooms: list[tuple[Scene, Rendered]]) -> None:
    for scene, rendered in rooms:
        for k, thing in enumerate(scene.objects):
            x, y = np.rint(np.array(thing.place) * 32 / HALF_WIDTH + 31.5).astype(int)
            assert rendered.objects[0, y, x] == k
            metres = rendered.depth[0][rendered.objects[0] == k] / 1000
            assert np.abs(metres - thing.distance).max() <= thing.radius + 1e-3


def test_every_object_is_seen_well_in_every_frame(rooms: list[tuple[Scene, Rendered]]) -> None:
    for scene, rendered in rooms:
        for k in range(len(scene.objects)):
            assert ((rendered.objects == k).sum((1, 2)) >= 20).all()


# What RGB can tell ------------------------------------------------------------------------------


def test_distance_leaves_no_trace_in_colour(rooms: list[tuple[Scene, Rendered]]) -> None:
    order = {"near": 2.2, "middle": 0.6, "far": 1.2}  # every object to another band, in m
    for scene, rendered in rooms[:20]:
        moved = replace(
            scene, objects=tuple(replace(o, distance=order[o.band]) for o in scene.objects)
        )
        other = render_scene(moved)
        assert (other.depth != rendered.depth).any()
        same = (other.colour == rendered.colour).all(-1)
        assert same.mean() > 0.998  # rounding decides a pixel on an edge


def test_the_camera_only_turns() -> None:
    for scene in (sample_scene(0, i) for i in range(50)):
        assert (scene.poses[:, :3, 3] == scene.poses[0, :3, 3]).all()
        turns = scene.poses[:, :3, :3]
        assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3))


def test_size_and_place_say_nothing_of_distance() -> None:
    things = [o for i in range(3000) for o in sample_scene(7, i).objects]
    distance = [o.distance for o in things]
    for trait in (
        [o.angular_radius for o in things],
        [o.place[0] for o in things],
        [o.place[1] for o in things],
        [list(COLOURS).index(o.colour) for o in things],
    ):
        assert abs(np.corrcoef(distance, trait)[0, 1]) < 0.04  # 3.4 standard errors


@given(worlds)
def test_objects_keep_apart_and_inside_the_room(scene: Scene) -> None:
    places = np.array([o.place for o in scene.objects])
    radii = np.array([o.angular_radius for o in scene.objects])
    gaps = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(len(places))
    assert (gaps > radii[:, None] + radii).all()
    assert len({o.colour for o in scene.objects}) == len(scene.objects)
    for o in scene.objects:
        sideways = np.hypot(o.distance + o.radius, abs(o.place[0]) * o.distance + o.radius)
        assert sideways < min(scene.room[:2])
        assert abs(o.place[1]) * o.distance + o.radius < scene.room[2]


@given(st.integers(0, 2**31), st.integers(0, 9999))
def test_a_scene_depends_on_its_arguments_alone(seed: int, index: int) -> None:
    one, same = sample_scene(seed, index), sample_scene(seed, index)
    assert one.objects == same.objects
    assert (one.poses == same.poses).all()
    assert (one.room, one.wall) == (same.room, same.wall)


def test_the_rooms_that_the_miniature_knows_stay_as_they_are() -> None:
    # It was trained on them: sample other rooms, and it has to be trained anew.
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


def test_more_frames_begin_with_the_same() -> None:
    few, many = sample_scene(5, 7, 4), sample_scene(5, 7, 16)
    assert few.objects == many.objects
    assert (few.poses == many.poses[:4]).all()


def test_another_seed_is_another_room() -> None:
    assert sample_scene(0, 0).objects != sample_scene(1, 0).objects
    assert sample_scene(0, 0).objects != sample_scene(0, 1).objects
