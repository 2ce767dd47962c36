"""ScanNet scenes as SensReader exports them: colour, depth, pose and intrinsics.

``<scene>/{color/<i>.jpg, depth/<i>.png, pose/<i>.txt, intrinsic/intrinsic_depth.txt}``, or the
variants ``frames_square``, with ``<scene>/intrinsic_depth.txt``, and ``scannet_frames_25k``, with
``<scene>/intrinsics_depth.txt``. Depth is 16-bit, usually in mm; poses are camera to world.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.media.depth_units import DepthScale, measured
from datamodules.media.images import image_size, read_colour, read_depth, stored_depth
from datamodules.media.paths import check_folder
from datamodules.samples import BadSample

# ScanNet's 1296x968 colour and 640x480 depth differ by 0.4 % in aspect.
_ASPECT_TOLERANCE = 0.02
# Exported poses carry six digits; a matrix further than this from a rotation is not a pose.
_ROTATION_TOLERANCE = 1e-3
_EXPORT = "Export the scene again with ScanNet's SensReader"
NO_DEPTH = "no depth in any pixel"  # why a frame is dropped


class ScanNetFrame(NamedTuple):
    """The files of one timestamp; ``id`` is their integer name."""

    id: int
    colour: Path
    depth: Path
    pose: Path


@dataclass(frozen=True, eq=False)
class ScanNetScene:
    """A scene and its usable frames in order of time; images are read on demand."""

    name: str
    folder: Path
    frames: tuple[ScanNetFrame, ...] = field(repr=False)
    dropped: Mapping[int, str] = field(repr=False)  # frame id → why it cannot be used
    intrinsics: Tensor  # (3, 3) float64, of the depth camera in pixels
    intrinsics_file: Path
    colour_size: tuple[int, int]  # (H, W)
    depth_size: tuple[int, int]  # (H, W)
    depth_scale: DepthScale = 1000  # units per metre

    def read_colour(self, frame: ScanNetFrame) -> Tensor:
        """uint8 (3, H, W); raises BadSample."""
        return _of_size(read_colour(frame.colour), self.colour_size, frame.colour)

    def read_depth(self, frame: ScanNetFrame) -> Tensor:
        """float32 (H, W) in mm, 0 where nothing was measured; raises BadSample."""
        return _of_size(read_depth(frame.depth, self.depth_scale), self.depth_size, frame.depth)

    def read_pose(self, frame: ScanNetFrame) -> Tensor:
        """float64 (4, 4) camera to world; raises BadSample."""
        return read_pose(frame.pose)


def open_scene(folder: Path, depth_scale: DepthScale = 1000) -> ScanNetScene:
    """List a scene's frames and check everything but the pixels.

    Frames whose pose is missing or unusable (ScanNet writes ``-inf`` when tracking is lost), or
    that have no depth in any pixel (see :func:`maybe_empty`), go to ``dropped``. Sizes are those of
    the first frame whose headers can be read; reading a frame of another size raises.

    Args:
        folder: the scene's folder.
        depth_scale: units per metre of its depth.

    Raises:
        BadSample: a folder or the intrinsics are missing, colour and depth have different frames
            or aspect ratios, or no frame is usable.
    """
    check_folder(folder, f"{_EXPORT}, or leave it out")
    colour, depth = _numbered(folder / "color", ".jpg", ".png"), _numbered(folder / "depth", ".png")
    poses = _numbered(folder / "pose", ".txt")
    if unpaired := sorted(colour.keys() ^ depth.keys()):
        raise BadSample(
            folder,
            f"has {len(colour)} colour and {len(depth)} depth frames; {len(unpaired)} lack the "
            f"other, the first is frame {unpaired[0]}",
            f"{_EXPORT}, colour and depth together",
        )
    frames: list[ScanNetFrame] = []
    dropped: dict[int, str] = {}
    for number in sorted(depth):
        if number not in poses:
            dropped[number] = "no pose file"
            continue
        try:
            read_pose(poses[number])
        except BadSample as error:
            dropped[number] = error.reason
        else:
            frames.append(ScanNetFrame(number, colour[number], depth[number], poses[number]))
    if frames:
        colour_size, depth_size = _sizes(frames)
        empty = [frame for frame in frames if _is_empty(frame.depth, depth_size)]
        dropped |= {frame.id: NO_DEPTH for frame in empty}
        frames = [frame for frame in frames if frame.id not in dropped]
    if not frames:
        number, reason = next(iter(dropped.items()))
        raise BadSample(
            folder,
            f"has no usable frame: {len(dropped)} dropped, frame {number} because: {reason}",
            f"{_EXPORT}, or leave it out",
        )
    intrinsics, intrinsics_file = _read_intrinsics(folder)
    return ScanNetScene(
        name=folder.absolute().name,
        folder=folder,
        frames=tuple(frames),
        dropped=dict(sorted(dropped.items())),
        intrinsics=intrinsics,
        intrinsics_file=intrinsics_file,
        colour_size=colour_size,
        depth_size=depth_size,
        depth_scale=depth_scale,
    )


def maybe_empty(stored_bytes: int, size: tuple[int, int]) -> bool:
    """Whether 16-bit depth compressed to so many bytes may be one value in every pixel.

    Opening a scene decodes only such frames to find those without a measurement: zlib compresses an
    empty image to a 150th or less, a sensor's depth to a tenth at best. An empty image that was
    stored uncompressed is refused when it is read.

    Args:
        stored_bytes: size of the file, or of its part in a recording.
        size: (H, W) of the image.
    """
    return stored_bytes <= size[0] * size[1] * 2 / 64 + 1024  # 1 kB is for headers


def _is_empty(depth: Path, size: tuple[int, int]) -> bool:
    try:
        return maybe_empty(depth.stat().st_size, size) and not measured(stored_depth(depth)).any()
    except (OSError, BadSample):  # reading this frame raises the error
        return False


def pose_trouble(pose: Tensor) -> str:
    """Why a matrix is not a camera-to-world pose; empty if it is one."""
    if pose.shape != (4, 4):
        return f"pose is {_shape(pose)}, not 4x4"
    if not pose.isfinite().all():
        return "pose is not finite"
    rotation = pose[:3, :3]
    rigid = torch.cat([rotation @ rotation.T - torch.eye(3).to(pose), pose[3:, :3]])
    if rigid.abs().max() > _ROTATION_TOLERANCE or pose[3, 3] != 1 or rotation.det() < 0:
        return "pose is not a rotation and a translation"
    return ""


def read_pose(path: Path) -> Tensor:
    """Read a camera-to-world matrix as float64 (4, 4).

    Raises:
        BadSample: the matrix is not 4x4, not finite, or not a rotation and a translation.
    """
    remedy = "Leave the frame out: its tracking was lost, or the file is damaged"
    pose = _read_matrix(path, remedy)
    if reason := pose_trouble(pose):
        raise BadSample(path, reason, remedy)
    return pose


def intrinsics_file(folder: Path, camera: Literal["color", "depth"]) -> Path | None:
    """The file with the matrix of a camera, if the scene has one.

    It is in ``intrinsic/``, as SensReader writes it, or in the scene's folder; copies of
    ``scannet_frames_25k`` call it ``intrinsics``.
    """
    places = (
        folder / place / f"{name}_{camera}.txt"
        for place in ("intrinsic", "intrinsics", ".")
        for name in ("intrinsic", "intrinsics")
    )
    return next((path for path in places if path.is_file()), None)


def read_camera(path: Path, remedy: str) -> Tensor:
    """Read a pinhole camera matrix, 3x3 or 4x4, as float64 (3, 3).

    Raises:
        BadSample: with this remedy; it is not such a matrix.
    """
    matrix = _read_matrix(path, remedy)
    known = matrix.shape in {(3, 3), (4, 4)} and bool(matrix.isfinite().all())
    if not (known and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        found = _shape(matrix)
        reason = f"is not a 3x3 or 4x4 camera matrix with positive fx and fy ({found})"
        raise BadSample(path, reason, remedy)
    return matrix[:3, :3]


def _read_intrinsics(folder: Path) -> tuple[Tensor, Path]:
    path = intrinsics_file(folder, "depth")
    if path is None:
        raise BadSample(
            folder,
            "has no intrinsic/intrinsic_depth.txt, no intrinsic_depth.txt and no "
            "intrinsics_depth.txt",
            f"{_EXPORT}, or put the 3x3 or 4x4 matrix of its depth camera there",
        )
    return read_camera(path, _EXPORT), path


def _read_matrix(path: Path, remedy: str) -> Tensor:
    try:
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        return torch.tensor([[float(x) for x in row] for row in rows], dtype=torch.float64)
    except (OSError, ValueError) as error:
        raise BadSample(path, f"is not a matrix of numbers ({error})", remedy) from error


def _numbered(folder: Path, *suffixes: str) -> dict[int, Path]:
    if not folder.exists():
        raise BadSample(folder.parent, f"has no folder {folder.name}/", _EXPORT)
    check_folder(folder, _EXPORT)
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if not path.stem.isdecimal() or int(path.stem) in files:
            raise BadSample(
                path,
                "is not named by a unique frame number, such as 0 or 20",
                "Rename or remove it; frames are ordered and paired by their numbers",
            )
        files[int(path.stem)] = path
    if not files:
        raise BadSample(folder, f"holds no {' or '.join(suffixes)} file", _EXPORT)
    return files


def _sizes(frames: list[ScanNetFrame]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) of colour and of depth."""
    unreadable: list[BadSample] = []
    for frame in frames:
        try:
            colour, depth = image_size(frame.colour), image_size(frame.depth)
        except BadSample as bad:  # reading this frame raises it; others may be usable
            unreadable.append(bad)
            continue
        stretch = colour[1] * depth[0] / (colour[0] * depth[1])
        if abs(stretch - 1) > _ASPECT_TOLERANCE:
            raise BadSample(
                frame.depth,
                f"is {depth[1]}x{depth[0]} while {frame.colour.name} is {colour[1]}x{colour[0]}: "
                "not the same view",
                f"{_EXPORT}, colour and depth uncropped",
            )
        return colour, depth
    raise unreadable[0]


def _of_size(image: Tensor, size: tuple[int, int], path: Path) -> Tensor:
    height, width = image.shape[-2:]
    if (height, width) != size:
        raise BadSample(
            path,
            f"is {width}x{height}, the scene's first frame is {size[1]}x{size[0]}",
            f"{_EXPORT}; all frames of a stream have one size",
        )
    return image


def _shape(matrix: Tensor) -> str:
    return "x".join(map(str, matrix.shape))
