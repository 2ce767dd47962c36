"""The worlds of the gallery: blinking rooms, filmed and recorded by another sensor.

Each sensor records what RGB cannot show: how warm an object is, when it blinks between the frames
of a slow sampling, and with which frequency the camera vibrates meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from datamodules.gallery import Events, Imu, Thermal
from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.modalities.files import FileModality
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import Split
from experiments.toyworld.blinks import FPS, FRAMES, BlinkClip, render_clip, sample_clip
from experiments.toyworld.contact_sheet import show
from experiments.toyworld.render import SIZE, render_scene
from experiments.toyworld.scene import SHAPES
from experiments.toyworld.video_files import write_video
from vlynx_pl.io.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WALL_C = 20.0
_OBJECTS_C = (5.0, 55.0)
_CONTRAST = 0.2  # change of log brightness per event
_IMU_HZ = 200
_VIBRATION_HZ: Final = dict(zip(SHAPES, (20, 40, 60, 80), strict=True))
_SHOWN = 4  # clips, and frames of each


@dataclass(frozen=True)
class SensedRooms:
    """A world of videos with a recording beside each.

    Args:
        modality: reads the recordings.
        record: writes one, given its path, the clip, its frames (T, H, W, 3) and random numbers.
    """

    modality: FileModality
    record: Callable[[Path, BlinkClip, NDArray[np.uint8], Generator], None]

    def make(self, out: Path, seed: int, index: int) -> BlinkClip:
        """Write ``videos/<name>.mp4`` and the recording."""
        clip = sample_clip(seed, index)
        colour = render_clip(clip)
        write_video(_video(out, clip), colour, FPS)
        with atomic_file(self._recording(out, clip)) as unfinished:
            self.record(unfinished, clip, colour, np.random.default_rng([seed, index, 5]))
        return clip

    def annotate(self, out: Path, splits: Mapping[Split, Sequence[BlinkClip]]) -> None:
        """Write nothing: no benchmark asks about these worlds."""

    def draw(self, figure: "Figure", out: Path, facts: Sequence[BlinkClip]) -> None:
        """Draw frames of some videos, and of their recordings below them."""
        shown = [clip for clip in facts if clip.blinks][:_SHOWN]
        figure.set_size_inches(9, 0.5 + 2.4 * -(-len(shown) // 2))
        figure.suptitle(f"Toy world {self.modality.name}: video, and what the sensor recorded")
        blocks = figure.subfigures(-(-len(shown) // 2), 2, squeeze=False).flat
        for block, clip in zip(blocks, shown, strict=False):
            rgb = read_video(_video(out, clip), [Request(Uniform(_SHOWN))]).streams[0].pixels
            sensed = self.modality.render(
                self._recording(out, clip), FrameSpec(_SHOWN, (SIZE, SIZE))
            )
            axes = block.subplots(2, _SHOWN)
            for row, frames in zip(axes, (rgb, sensed), strict=True):
                for axis, frame in zip(row, frames, strict=True):
                    show(axis, frame)
                    axis.axis("off")

    def _recording(self, out: Path, clip: BlinkClip) -> Path:
        return out / self.modality.pattern.replace("*", clip.name)


def _video(out: Path, clip: BlinkClip) -> Path:
    return out / "videos" / f"{clip.name}.mp4"


def _thermal(path: Path, clip: BlinkClip, colour: NDArray[np.uint8], random: Generator) -> None:
    objects = render_scene(clip.scene).objects[::FPS]  # (T, H, W), one per second
    celsius = np.array([_WALL_C, *random.uniform(*_OBJECTS_C, len(clip.scene.objects))])
    kelvin = celsius[objects + 1] + 273.15 + random.normal(0, 0.1, objects.shape)
    first, *others = (Image.fromarray(page) for page in np.rint(100 * kelvin).astype(np.uint16))
    first.save(path, "TIFF", save_all=True, append_images=others)


def _events(path: Path, clip: BlinkClip, colour: NDArray[np.uint8], random: Generator) -> None:
    level = np.floor(np.log(colour.mean(-1) + 1) / _CONTRAST).astype(int)  # (T, H, W)
    change = np.diff(level, axis=0)
    each = [np.repeat(axis, np.abs(change)[change != 0]) for axis in change.nonzero()]
    frame, y, x = each
    time = (frame + random.random(len(frame))) / FPS
    events = np.stack([time, x, y, change[frame, y, x] > 0], -1)
    np.savetxt(path, events[time.argsort()], "%.6f %d %d %d")


def _imu(path: Path, clip: BlinkClip, colour: NDArray[np.uint8], random: Generator) -> None:
    poses = clip.scene.poses[:, :3, :3]  # camera to world
    turn = poses[:-1].transpose(0, 2, 1) @ poses[1:]
    rates = np.stack([turn[:, 2, 1], turn[:, 0, 2], turn[:, 1, 0]], -1) * FPS  # of small angles
    frames = np.arange(FRAMES) / FPS  # s
    time = np.arange(0, frames[-1], 1 / _IMU_HZ)
    measured = [np.interp(time, frames[1:], rate) for rate in rates.T]
    measured += [np.interp(time, frames, 9.81 * up) for up in poses[:, 2].T]  # against gravity
    table = np.stack(measured, -1) + random.normal(0, [0.005] * 3 + [0.05] * 3, (len(time), 6))
    for blink in clip.blinks:
        hertz = _VIBRATION_HZ[clip.scene.objects[blink.thing].shape]
        during = (time * FPS >= blink.frames.start) & (time * FPS < blink.frames.stop)
        table[during, 3:] += 2 * np.sin(2 * np.pi * hertz * time[during])[:, None]
    rows = np.column_stack([np.rint(1e9 * time), table])
    header = "#timestamp [ns],w_x [rad s^-1],w_y,w_z,a_x [m s^-2],a_y,a_z"
    np.savetxt(path, rows, "%d" + ",%.6f" * 6, header=header, comments="")


SENSED: Final = {
    "thermal": SensedRooms(Thermal(), _thermal),
    "events": SensedRooms(Events(height=SIZE, width=SIZE), _events),
    "imu": SensedRooms(Imu(), _imu),
}
