"""Samples toy rooms, in which the apparent size of an object does not depend on its distance.

Every object gets an angular size and, independently, a distance band; its metric size is angular
size × distance. The camera only rotates, since a moving camera would show depth by parallax. There
are no shadows, no contact with the floor and no occlusion. Therefore RGB answers questions about
colour, shape, number and place, and does not answer questions about distance.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SHAPES: Final = ("box", "sphere", "cylinder", "cone")
COLOURS: Final = {
    "red": (214, 40, 40),
    "green": (52, 160, 60),
    "blue": (40, 80, 210),
    "yellow": (240, 215, 40),
    "purple": (130, 50, 170),
    "orange": (245, 135, 25),
    "cyan": (45, 200, 215),
    "black": (25, 25, 25),
}
"""Name → sRGB."""

BANDS: Final = {"near": (0.22, 0.32), "middle": (0.45, 0.65), "far": (1.0, 1.5)}
"""Distance along the view axis in m, with gaps between the bands.

Disparity between 0.2 and 10 m, the usual range, uses most of its scale for the first metre. The
bands are chosen so that each of them, and the walls behind, have a separate part of the scale.
"""

FRAMES: Final = 4
"""Frames of a scene of the 3d world."""

HALF_WIDTH: Final = float(np.tan(np.radians(30)))
"""Half the side of a frame in focal lengths; the field of view is 60 degrees both ways."""

_MOST_OBJECTS = 4
_ANGULAR_RADIUS = (0.11, 0.15)  # radius / distance; 6 to 8 pixels of 64
_SLANT = np.radians(30.0)  # seen end-on, a cylinder is a disc, so axes stay near the image plane
_FIELD = 0.43  # distance of centres from the view axis, which rotations keep inside the frame
_TURN = np.radians([5.0, 4.0, 3.0])  # largest pan, tilt and roll
_ROOM_M = (3.3, 4.0)  # half extents of the room; its walls are behind every object
_CAMERA_HEIGHT_M = 1.5


@dataclass(frozen=True)
class ToyObject:
    """A floating solid."""

    shape: str
    colour: str
    band: str
    distance: float  # m along the view axis of the first camera
    place: tuple[float, float]  # (x right, y down) in focal lengths
    angular_radius: float  # radius / distance
    turn: tuple[float, float, float]  # radians: spin, slant to the image plane, direction in it

    @property
    def radius(self) -> float:
        """Return the radius of the bounding sphere in m."""
        return self.angular_radius * self.distance


@dataclass(frozen=True, eq=False)
class Scene:
    """A room, its objects, and the poses of a camera that rotates about one point."""

    index: int
    objects: tuple[ToyObject, ...]
    poses: NDArray[np.float64]  # (T, 4, 4) camera to world, z up, m
    room: tuple[float, float, float]  # half extents in m, seen from the camera
    wall: tuple[int, int, int]  # sRGB

    @property
    def name(self) -> str:
        """Return a name in ScanNet's form: room, and number of the scan."""
        return f"scene{self.index:04d}_00"

    def places(self) -> NDArray[np.float64]:
        """Return the objects' centres, (T, K, 2): x right, y down, in focal lengths."""
        centres = np.array([[*o.place, 1.0] for o in self.objects])
        centres *= [[o.distance] for o in self.objects]  # (K, 3), from the first camera
        world = centres @ self.poses[0, :3, :3].T  # (K, 3), from the camera's point
        camera = np.einsum("tji,kj->tki", self.poses[:, :3, :3], world)
        seen: NDArray[np.float64] = camera[..., :2] / camera[..., 2:]
        return seen


def sample_scene(seed: int, index: int, frames: int = FRAMES) -> Scene:
    """Return scene ``index``; a pure function of its arguments."""
    random = np.random.default_rng([seed, index])
    count = int(random.integers(1, _MOST_OBJECTS + 1))
    colours = random.permutation(list(COLOURS))[:count]
    places, radii = _spread(random, count)
    objects = []
    for colour, place, radius in zip(colours, places, radii, strict=True):
        band = str(random.choice(list(BANDS)))
        objects.append(
            ToyObject(
                shape=str(random.choice(SHAPES)),
                colour=str(colour),
                band=band,
                distance=float(random.uniform(*BANDS[band])),
                place=(float(place[0]), float(place[1])),
                angular_radius=float(radius),
                turn=(
                    float(random.uniform(0, 2 * np.pi)),
                    float(random.uniform(-_SLANT, _SLANT)),
                    float(random.uniform(0, 2 * np.pi)),
                ),
            )
        )
    width, depth = random.uniform(*_ROOM_M, 2)
    grey = random.uniform(110, 170)
    wall = np.clip(grey + random.uniform(-10, 10, 3), 0, 255).astype(int)
    return Scene(
        index=index,
        objects=tuple(objects),
        poses=_turning_camera(random, frames),
        room=(float(width), float(depth), _CAMERA_HEIGHT_M),
        wall=(int(wall[0]), int(wall[1]), int(wall[2])),
    )


def _spread(
    random: np.random.Generator, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw places (K, 2) and angular radii (K,) of circles that do not overlap."""
    while True:
        radii = random.uniform(*_ANGULAR_RADIUS, count)
        places = random.uniform(-_FIELD, _FIELD, (count, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        apart = gaps > 1.15 * (radii[:, None] + radii[None])
        if apart[~np.eye(count, dtype=bool)].all():
            return places, radii


def _turning_camera(random: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """Draw camera-to-world poses (T, 4, 4): one point, small rotations about a random heading."""
    heading = random.uniform(0, 2 * np.pi)
    turns = random.uniform(-1, 1, (frames, 3)) * _TURN
    turns[0] = 0  # places are relative to the first camera
    # Camera axes (x right, y down, z forward) of a level camera in a world whose z is up.
    level = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for pose, (pan, tilt, roll) in zip(poses, turns, strict=True):
        turn = rotation(1, pan) @ rotation(0, tilt) @ rotation(2, roll)
        pose[:3, :3] = rotation(2, heading) @ level @ turn
        pose[2, 3] = _CAMERA_HEIGHT_M
    return poses


def rotation(axis: int, angle: float) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that rotates by ``angle`` radians about a coordinate axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    matrix[[i, i, j, j], [i, j, i, j]] = [cosine, -sine, sine, cosine]
    return matrix
