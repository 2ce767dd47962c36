"""Takes of a ball game: the more skilled the player, the closer the gaze follows the ball.

The ball is the only sphere in the room. In the egocentric view, its distance from the centre of the
frame shows the skill in every frame. The views of the four cameras in the corners do not depend on
the skill.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.toyworld.render import SIZE, render_scene
from experiments.toyworld.scene import COLOURS, SHAPES, Scene, ToyObject, rotation, sample_scene

FPS: Final = 2
FRAMES: Final = 8
CAMERAS: Final = (1, 2, 3, 4)
SKILLS: Final = {
    "Novice": (0.42, 0.45),
    "Early Expert": (0.28, 0.31),
    "Intermediate Expert": (0.14, 0.17),
    "Late Expert": (0.0, 0.03),
}
"""Distance of the ball from the centre of the frame, in focal lengths; half a frame is 0.58."""

BALLS: Final = {"Basketball": "orange", "Soccer": "black"}
"""Scenario → colour of the ball."""

_PLAYER_M = 1.6  # from the player to the middle of the room
_BALL_M = (1.25, 1.45)  # distance from the player, nearer than all other objects
_OTHERS_M = (2.0, 2.4)
_FIELD = 0.25  # largest distance of the ball from the view axis when looking straight ahead
_BALL_RADIUS = 0.12  # radius / distance
_CORNER_M = (2.3, 2.3, 0.9)  # from the middle of the room to the cameras
_EXO_WIDTH = 80  # pixels; frames are SIZE high

# The player: a head around the eyes, and a body below. The centre of an object is place · distance,
# so the distance cannot be zero.
_PLAYER = (
    ToyObject("sphere", "cyan", "", 0.01, (0.0, 0.0), 14.0, (0.0, 0.0, 0.0)),
    ToyObject("cone", "cyan", "", 0.01, (0.0, 62.0), 68.0, (0.0, 0.0, 0.0)),
)


@dataclass(frozen=True, eq=False)
class ToyTake:
    """One player, one ball, and the cameras that filmed them."""

    scene: Scene  # seen by the player looking straight ahead; its first object is the ball
    path: NDArray[np.float64]  # (T, 2) places of the ball in that view, as ToyObject.place
    deviations: NDArray[np.float64]  # (T, 2) of the ball from the centre of the egocentric view
    scenario: str
    skill: str
    cameras: tuple[int, ...]  # a subset of CAMERAS

    @property
    def name(self) -> str:
        """Return a name in Ego-Exo4D's form: university, scenario, session and number."""
        session, number = divmod(self.scene.index, 100)
        return f"toyworld_{self.scenario.lower()}_{session:03d}_{number}"


def sample_take(seed: int, index: int, skill: str | None = None) -> ToyTake:
    """Return take ``index``; a pure function of its arguments.

    Args:
        seed: seed of the world.
        index: number of the take; takes 4·n to 4·n + 3 have all four skills.
        skill: one of SKILLS, which changes nothing but the gaze; None draws it.
    """
    four = np.random.default_rng([seed, index // 4, 3]).permutation(list(SKILLS))
    skill = skill or str(four[index % 4])
    random = np.random.default_rng([seed, index, 4])
    scenario = str(random.choice(list(BALLS)))
    ends = random.uniform(-_FIELD, _FIELD, (2, 2))
    share = (1 - np.cos(np.linspace(0, 2 * np.pi, FRAMES)))[:, None] / 2  # there and back
    cameras = list(CAMERAS)
    if random.random() < 0.5:
        kept = random.permutation(cameras)[: random.integers(1, len(cameras))]
        cameras = sorted(int(camera) for camera in kept)
    angles = random.uniform(0, 2 * np.pi, FRAMES)
    lengths = np.interp(random.random(FRAMES), (0, 1), SKILLS[skill])
    return ToyTake(
        scene=_room(seed, index, BALLS[scenario], random),
        path=ends[0] + share * (ends[1] - ends[0]),
        deviations=lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1),
        scenario=scenario,
        skill=skill,
        cameras=tuple(cameras),
    )


def render_ego(take: ToyTake) -> NDArray[np.uint8]:
    """Render the egocentric view, (T, SIZE, SIZE, 3)."""
    frames = []
    for place, deviation in zip(take.path, take.deviations, strict=True):
        # Starting from looking at the ball, rotate about an axis in the image plane.
        direction = rotation(2, float(np.arctan2(deviation[1], deviation[0])))
        aside = direction @ rotation(1, float(np.arctan(np.hypot(*deviation)))) @ direction.T
        pose = take.scene.poses[0].copy()
        at_ball = _looking(np.array([*place, 1.0]), np.array([0.0, 1, 0]))
        pose[:3, :3] = pose[:3, :3] @ at_ball @ aside
        frames.append(_frames(take.scene, place, [pose], SIZE)[0])
    return np.stack(frames)


def render_exo(take: ToyTake) -> dict[int, NDArray[np.uint8]]:
    """Render the views from the corners: camera → (T, SIZE, _EXO_WIDTH, 3)."""
    width = _EXO_WIDTH
    cut = slice((width - SIZE) // 2, (width + SIZE) // 2)
    scene = replace(take.scene, objects=(*take.scene.objects, *_PLAYER))
    poses = [_corner(camera, take.scene.room[2]) for camera in take.cameras]
    seen = np.stack([_frames(scene, place, poses, width)[:, cut] for place in take.path], 1)
    return dict(zip(take.cameras, seen, strict=True))


def _room(seed: int, index: int, ball: str, random: np.random.Generator) -> Scene:
    """Return a room with a ball, other objects behind it, and the player in front of it.

    No other object is a sphere or has the colour of a ball or of the player.
    """
    scene = sample_scene(seed, index, frames=1)
    distance = float(random.uniform(*_BALL_M))
    things = [ToyObject("sphere", ball, "", distance, (0.0, 0.0), _BALL_RADIUS, (0.0, 0.0, 0.0))]
    taken = {*BALLS.values(), *(part.colour for part in _PLAYER)}
    colours = random.permutation([colour for colour in COLOURS if colour not in taken])
    for thing, colour in zip(scene.objects, colours, strict=False):
        shape = str(random.choice([shape for shape in SHAPES if shape != "sphere"]))
        distance = float(random.uniform(*_OTHERS_M))
        things.append(replace(thing, shape=shape, colour=str(colour), distance=distance))
    poses = scene.poses.copy()
    poses[0, :3, 3] -= _PLAYER_M * poses[0, :3, 2]
    return replace(scene, objects=tuple(things), poses=poses)


def _frames(
    scene: Scene, ball: NDArray[np.float64], poses: Sequence[NDArray[np.float64]], size: int
) -> NDArray[np.uint8]:
    """Render one timestamp from P poses, (P, size, size, 3)."""
    moved = replace(scene.objects[0], place=(float(ball[0]), float(ball[1])))
    # Objects and light are relative to the first pose, so it stays, and its frame is dropped.
    cameras = np.stack([scene.poses[0], *poses])
    shown = replace(scene, objects=(moved, *scene.objects[1:]), poses=cameras)
    return render_scene(shown, size).colour[1:]


def _corner(camera: int, height: float) -> NDArray[np.float64]:
    """Return the pose (4, 4) of a camera high in a corner that looks at the middle of the room."""
    across, along, up = _CORNER_M
    place = np.array([across * (1, -1)[camera % 2], along * (1, -1)[camera // 2 % 2], up])
    pose = np.eye(4)
    pose[:3, :3] = _looking(-place, np.array([0.0, 0, -1]))
    pose[:3, 3] = place + np.array([0, 0, height])
    return pose


def _looking(forward: NDArray[np.float64], down: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return camera axes (3, 3) in columns: right, down, forward, without roll."""
    ahead = forward / np.linalg.norm(forward)
    right = np.cross(down, ahead)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(ahead, right), ahead], -1)
