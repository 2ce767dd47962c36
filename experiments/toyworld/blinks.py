"""Rooms in which objects blink too briefly for slow sampling, but not for fast sampling.

A clip has 106 frames, so that 4, 8 and 16 timestamps spread evenly from the first frame to the last
fall on whole frames: every 35th, 15th and 7th. Each blink lasts 7 frames (0.47 s), lies between the
timestamps of 2, 4 and 8 frames, and contains exactly one of 16. Any sampling of 16 frames or more
sees every blink; 3, 5 to 7 and 9 to 15 frames may see some. The same is true within :data:`PARTS`
of a clip for 4 and for 16 frames, and rounding down by one frame changes nothing.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import Scene, sample_scene

FPS: Final = 15
FRAMES: Final = 106
BLINK: Final = 7  # frames
PARTS: Final = ((0.0, 3.0), (4.0, 7.0))
"""(start, end) in s of parts that contain whole blinks, which 4 frames of the part do not show."""

MOST_BLINKS: Final = 4
# First and last frame between two neighbours of the 4 and 8 timestamps, with a margin of one frame
# on both sides; narrower gaps are left out.
_WINDOWS = ((2, 13), (17, 28), (47, 58), (77, 88), (92, 103))
_FAST_STEP = 7  # frames from one of 16 timestamps to the next
_WHITE = 255


@dataclass(frozen=True)
class Blink:
    """A time in which an object is white."""

    thing: int  # index into scene.objects
    start: int  # frame

    @property
    def frames(self) -> slice:
        """Return the white frames."""
        return slice(self.start, self.start + BLINK)


@dataclass(frozen=True, eq=False)
class BlinkClip:
    """A room filmed by a slowly rotating camera, and its blinks in temporal order."""

    scene: Scene
    blinks: tuple[Blink, ...]

    @property
    def name(self) -> str:
        return self.scene.name


def sample_clip(seed: int, index: int) -> BlinkClip:
    """Return clip ``index``; a pure function of its arguments.

    The number of blinks is independent of the room. No object blinks twice unless all blink.
    """
    scene = sample_scene(seed, index)
    random = np.random.default_rng([seed, index, 1])
    count = int(random.integers(MOST_BLINKS + 1))
    windows = sorted(random.choice(len(_WINDOWS), count, replace=False))
    things = [k for _ in range(count) for k in random.permutation(len(scene.objects))][:count]
    blinks = []
    for thing, window in zip(random.permutation(things), windows, strict=True):
        first, last = _WINDOWS[window]
        # A sampling that rounds down might miss a blink that starts on a fast timestamp.
        starts = [s for s in range(first, last - BLINK + 2) if s % _FAST_STEP]
        blinks.append(Blink(int(thing), int(random.choice(starts))))
    return BlinkClip(_filmed(scene), tuple(blinks))


def render_clip(clip: BlinkClip) -> NDArray[np.uint8]:
    """Render all frames in colour, (T, SIZE, SIZE, 3)."""
    rendered = render_scene(clip.scene)
    for blink in clip.blinks:
        white = rendered.objects[blink.frames] == blink.thing
        rendered.colour[blink.frames][white] = _WHITE
    return rendered.colour


def _filmed(scene: Scene) -> Scene:
    """Place the scene's four poses at the four slow timestamps, with smooth rotations between."""
    stops = np.linspace(0, FRAMES - 1, len(scene.poses))
    after = np.clip(np.searchsorted(stops, np.arange(FRAMES), "right"), 1, len(stops) - 1)
    share = (np.arange(FRAMES) - stops[after - 1]) / (stops[after] - stops[after - 1])
    share = share[:, None, None]
    share = share**2 * (3 - 2 * share)  # at rest at every stop
    poses = (1 - share) * scene.poses[after - 1] + share * scene.poses[after]  # (T, 4, 4)
    left, _, right = np.linalg.svd(poses[:, :3, :3])
    poses[:, :3, :3] = left @ right  # the nearest rotation
    return replace(scene, poses=poses)
