"""What stands where in a toy room: objects whose size in the picture says nothing of distance.

Every object gets an angular size and, independently, a distance band; its metric size is angular
size × distance. The camera only turns, since a moving camera would show depth by parallax. There
are no shadows, no contact with the floor and no occlusion. So questions about distance cannot be
answered from RGB, and questions about colour, shape, number and place can.
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

Disparity between 0.2 and 10 m, the usual range, spends most of its scale on the first metre; so
each band, and the walls behind them all, have a part of it to themselves.
"""

FIELD_OF_VIEW: Final = 60.0  # degrees, of both sides of the square picture
HALF_WIDTH: Final = float(np.tan(np.radians(FIELD_OF_VIEW / 2)))
"""Half a picture's side in units of the focal length."""

_ANGULAR_RADIUS = (0.11, 0.15)  # radius / distance; 6 to 8 pixels of a picture of 64
_SLANT = np.radians(30.0)  # end on, a cylinder is a disc; so axes lie near the picture plane
_FIELD = 0.43  # centres lie within this of the view axis, so that turning keeps them in the picture
_TURN = np.radians([5.0, 4.0, 3.0])  # largest pan, tilt and roll of a frame
_ROOM_M = (3.3, 4.0)  # half extents of the room; its walls are behind every object
_CAMERA_HEIGHT_M = 1.5


@dataclass(frozen=True)
class ToyObject:
    """One floating solid."""

    shape: str
    colour: str
    band: str
    distance: float  # m along the view axis of the first camera
    place: tuple[float, float]  # (x right, y down) in units of the focal length
    angular_radius: float  # radius / distance
    turn: tuple[float, float, float]  # radians: spin, slant to the picture plane, direction in it

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere in m."""
        return self.angular_radius * self.distance


@dataclass(frozen=True, eq=False)
class Scene:
    """A room, its objects, and the cameras that look at it from one point."""

    index: int
    objects: tuple[ToyObject, ...]
    poses: NDArray[np.float64]  # (T, 4, 4) camera to world, z up, m
    room: tuple[float, float, float]  # half extents in m, seen from the camera
    wall: tuple[int, int, int]  # sRGB

    @property
    def name(self) -> str:
        """ScanNet's way of naming a room, first scan."""
        return f"scene{self.index:04d}_00"

    def places(self) -> NDArray[np.float64]:
        """Centres of the objects in every frame, (T, K, 2): x right, y down, focal length 1."""
        centres = np.array([[*o.place, 1.0] for o in self.objects])
        centres *= [[o.distance] for o in self.objects]  # (K, 3), from the first camera
        world = centres @ self.poses[0, :3, :3].T  # (K, 3), from the camera's point
        camera = np.einsum("tji,kj->tki", self.poses[:, :3, :3], world)
        seen: NDArray[np.float64] = camera[..., :2] / camera[..., 2:]
        return seen


def sample_scene(seed: int, index: int, frames: int = 4, max_objects: int = 4) -> Scene:
    """The scene with that number; a pure function of its arguments."""
    random = np.random.default_rng([seed, index])
    count = int(random.integers(1, max_objects + 1))
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
    """Places (K, 2) and angular radii (K,) whose circles keep apart."""
    while True:
        radii = random.uniform(*_ANGULAR_RADIUS, count)
        places = random.uniform(-_FIELD, _FIELD, (count, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        apart = gaps > 1.15 * (radii[:, None] + radii[None])
        if apart[~np.eye(count, dtype=bool)].all():
            return places, radii


def _turning_camera(random: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """Camera-to-world poses (T, 4, 4): one point, small turns about a random heading."""
    heading = random.uniform(0, 2 * np.pi)
    turns = random.uniform(-1, 1, (frames, 3)) * _TURN
    turns[0] = 0  # places are given in the first camera
    # Camera axes (x right, y down, z forward) of a level camera in a world whose z is up.
    level = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for pose, (pan, tilt, roll) in zip(poses, turns, strict=True):
        turn = rotation(1, pan) @ rotation(0, tilt) @ rotation(2, roll)
        pose[:3, :3] = rotation(2, heading) @ level @ turn
        pose[2, 3] = _CAMERA_HEIGHT_M
    return poses


def rotation(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) by ``angle`` radians about a coordinate axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    matrix[[i, i, j, j], [i, j, i, j]] = [cosine, -sine, sine, cosine]
    return matrix
