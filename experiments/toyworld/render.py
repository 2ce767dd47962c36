"""Renders colour, depth and object numbers of a toy scene by ray casting on the CPU with open3d."""

from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.libraries import import_library
from experiments.toyworld.scene import COLOURS, HALF_WIDTH, Scene, rotation

SIZE: Final = 64  # side of a frame in pixels
_LIGHT = np.array([0.35, -0.75, -0.55]) / np.linalg.norm([0.35, -0.75, -0.55])  # camera axes
_AMBIENT = 0.55
BACKGROUND = -1


class Rendered(NamedTuple):
    """T frames of a scene."""

    colour: NDArray[np.uint8]  # (T, H, W, 3)
    depth: NDArray[np.uint16]  # (T, H, W), mm along the view axis
    objects: NDArray[np.int16]  # (T, H, W), index into scene.objects, or BACKGROUND


def intrinsics(size: int) -> NDArray[np.float64]:
    """Return the pinhole camera matrix (3, 3) of a square frame, pixel centres at integers."""
    focal = size / 2 / HALF_WIDTH
    centre = (size - 1) / 2
    return np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]])


def render_scene(scene: Scene, size: int = SIZE) -> Rendered:
    """Render every frame of ``scene`` with ``size`` × ``size`` pixels."""
    open3d = import_library("open3d")
    caster = open3d.t.geometry.RaycastingScene(nthreads=1)
    caster.add_triangles(*_room(scene))
    world = scene.poses[0, :3, :3]
    for thing in scene.objects:
        vertices, triangles = _solid(thing.shape)
        spin, slant, direction = thing.turn
        turn = rotation(2, direction) @ rotation(0, np.pi / 2 + slant) @ rotation(2, spin)
        centre = np.array([*thing.place, 1.0]) * thing.distance
        placed = (vertices @ turn.T * thing.radius + centre) @ world.T + scene.poses[0, :3, 3]
        caster.add_triangles(placed.astype(np.float32), triangles)
    directions = _directions(size) @ scene.poses[:, None, :3, :3].transpose(0, 1, 3, 2)
    directions = directions.reshape(-1, size, size, 3)  # (T, H, W, 3)
    origins = np.broadcast_to(scene.poses[:, None, None, :3, 3], directions.shape)
    rays = np.concatenate([origins, directions], -1).astype(np.float32)
    hit = caster.cast_rays(open3d.core.Tensor(rays))
    # The view axis has unit length along every ray, so the distance along the ray is depth.
    depth = np.rint(hit["t_hit"].numpy() * 1000).clip(0, 65535).astype(np.uint16)
    objects = hit["geometry_ids"].numpy().astype(np.int16) - 1
    palette = np.array([scene.wall, *(COLOURS[thing.colour] for thing in scene.objects)])
    shade = _shade(hit["primitive_normals"].numpy(), scene, directions)
    colour = np.rint(palette[objects + 1] * shade[..., None]).astype(np.uint8)
    return Rendered(colour, depth, objects)


def _shade(
    normals: NDArray[np.float32], scene: Scene, directions: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Apply Lambert's law with a distant light behind the camera; (T, H, W) in 0…1."""
    light = (scene.poses[0, :3, :3] @ _LIGHT).astype(np.float32)
    away = np.einsum("thwc,thwc->thw", normals, directions.astype(np.float32)) > 0
    lambert = normals @ light
    lambert[away] *= -1  # the winding of triangles is not uniform
    shaded: NDArray[np.float32] = _AMBIENT + (1 - _AMBIENT) * lambert.clip(0, 1)
    return shaded


@cache
def _directions(size: int) -> NDArray[np.float64]:
    """Return ray directions (H*W, 3) with unit length along the view axis, in camera axes."""
    rows, columns = np.mgrid[:size, :size]
    pixels = np.stack([columns.ravel(), rows.ravel(), np.ones(size * size)])
    rays: NDArray[np.float64] = (np.linalg.inv(intrinsics(size)) @ pixels).T
    return rays


def _room(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Return a box around the camera, which is at (0, 0, height) in the world."""
    width, depth, height = scene.room
    corners, triangles = _solid("box")
    corners = np.sign(corners) * [width, depth, height] + [0, 0, height]
    return corners.astype(np.float32), triangles


@cache
def _solid(shape: str) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
    """Return vertices (V, 3) in the unit sphere around the origin, and triangles (M, 3)."""
    solids = import_library("open3d").geometry.TriangleMesh
    mesh = {
        "box": solids.create_box,
        "sphere": lambda: solids.create_sphere(resolution=10),
        "cylinder": lambda: solids.create_cylinder(0.4, 1.5, resolution=16, split=1),
        "cone": lambda: solids.create_cone(0.6, 1.3, resolution=16, split=1),
    }[shape]()
    vertices = np.asarray(mesh.vertices)
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    vertices /= np.linalg.norm(vertices, axis=1).max()
    return vertices, np.asarray(mesh.triangles).astype(np.uint32)
