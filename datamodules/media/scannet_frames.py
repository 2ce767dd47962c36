"""Which frames of a ScanNet scene are read together, and how their depth is drawn."""

from collections.abc import Sequence
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.media.depth_units import doubt
from datamodules.media.images import stored_depth
from datamodules.media.pose_sampling import farthest_points
from datamodules.media.scannet import ScanNetFrame, ScanNetScene
from datamodules.samples import BadSample
from datamodules.signals.disparity import disparity
from datamodules.signals.normals import normals

Encoding = Literal["turbo", "gray", "normals", "turbo+normals"]
NormalFrame = Literal["camera", "world"]

_Item = TypeVar("_Item")
_LOOKED_AT: Final = 3  # frames per scene, to check the unit of its depth


def depth_frames(
    scene: ScanNetScene,
    frames: Sequence[ScanNetFrame],
    *,
    encoding: Encoding = "turbo",
    near_mm: float = 200,
    far_mm: float = 10_000,
    normal_frame: NormalFrame = "camera",
) -> Tensor:
    """Depth drawn as frames, uint8 (T, 3, h, w), or (2T, 3, h, w) with ``turbo+normals``.

    Raises:
        BadSample: a file cannot be used, or the intrinsics do not belong to the depth images.
    """
    depth = torch.stack([scene.read_depth(frame) for frame in frames])  # (T, h, w)
    drawn = []
    if encoding != "normals":
        colours: Literal["gray", "turbo"] = "gray" if encoding == "gray" else "turbo"
        drawn.append(disparity(depth, near_mm, far_mm, colours))
    if encoding in {"normals", "turbo+normals"}:
        pose = None
        if normal_frame == "world":
            pose = torch.stack([scene.read_pose(frame) for frame in frames])
        try:
            drawn.append(normals(depth, scene.intrinsics, near_mm, far_mm, pose))
        except ValueError as error:
            raise BadSample(
                scene.folder, str(error), "Correct intrinsic_depth.txt, or use encoding=turbo"
            ) from error
    return torch.stack(drawn, 1).flatten(0, 1)


def doubt_of(scene: ScanNetScene, near_mm: float = 200, far_mm: float = 10_000) -> str | None:
    """What :func:`datamodules.media.depth_units.doubt` says about three frames of a scene.

    Returns:
        None if the unit is plausible. Also if none of the three can be read: reading the frames for
        a sample reports that.
    """
    stored = []
    for frame in subsample(scene.frames, _LOOKED_AT):
        try:
            stored.append(stored_depth(frame.depth).ravel())
        except BadSample:
            continue
    return doubt(np.concatenate(stored), scene.depth_scale, near_mm, far_mm) if stored else None


def subsample(items: Sequence[_Item], count: int) -> Sequence[_Item]:
    """At most ``count`` items at equal steps from the first."""
    return items[:: max(1, -(-len(items) // max(1, count)))]


def colour_frames(scene: ScanNetScene, frames: Sequence[ScanNetFrame]) -> Tensor:
    """Colour frames, uint8 (T, 3, h, w); raises BadSample for a file that cannot be used."""
    return torch.stack([scene.read_colour(frame) for frame in frames])


def windows(scene: ScanNetScene, length: int) -> list[Sequence[ScanNetFrame]]:
    """All frames in runs of ``length``; the last run ends at the last frame.

    Raises:
        BadSample: the scene has fewer frames.
    """
    frames = scene.frames
    if len(frames) < length:
        raise BadSample(
            scene.folder,
            f"has {len(frames)} usable frames here, fewer than frames_per_sample={length}",
            "Lower frames_per_sample, or leave the scene out",
        )
    starts = (min(start, len(frames) - length) for start in range(0, len(frames), length))
    return [frames[start : start + length] for start in starts]


def chunks(frames: Sequence[ScanNetFrame], length: int) -> list[Sequence[ScanNetFrame]]:
    """All frames in runs of ``length``; the last may be shorter."""
    return [frames[start : start + length] for start in range(0, len(frames), length)]


def farthest_frames(scene: ScanNetScene, count: int) -> list[ScanNetFrame]:
    """The ``count`` frames whose cameras are farthest apart, or all, in order of time.

    Raises:
        BadSample: a pose cannot be used.
    """
    poses = torch.stack([scene.read_pose(frame) for frame in scene.frames])
    return [scene.frames[index] for index in farthest_points(poses, count)]
