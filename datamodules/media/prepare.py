"""Converting other RGB-D recordings to ScanNet's layout, so that one reader serves them all."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from rich import print as say
from torch import Tensor

from datamodules.media.depth_units import DepthScale, check_scale, in_mm, measured
from datamodules.media.images import read_colour, stored_depth
from datamodules.media.scannet import NO_DEPTH, maybe_empty, open_scene, pose_trouble
from datamodules.media.scannet_frames import doubt_of
from datamodules.media.sens import SensFile, SensFrame, open_sens
from datamodules.samples import BadSample
from vlynx_pl.io.progress import track


@contextmanager
def new_scene(out: Path, name: str, source: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``out/scans/<name>`` when the block succeeds.

    It starts with empty folders ``color/``, ``depth/``, ``pose/`` and ``intrinsic/``. Frames that
    readers of the scene will drop are printed.

    Raises:
        ValueError: ``name`` is not a folder name.
        BadSample: what was made from ``source`` is not a scene; nothing is left behind.
        FileExistsError: another scene of this name exists. If it is the same, that is printed.
    """
    if Path(name).name != name or name.startswith("."):
        raise ValueError(
            f"scene={name!r} is not a folder name; give one such as chess or redkitchen"
        )
    target = out / "scans" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=target.parent) as staging:
        unfinished = Path(staging) / name
        for part in ("color", "depth", "pose", "intrinsic"):
            (unfinished / part).mkdir(parents=True)
        yield unfinished
        try:
            scene = open_scene(unfinished)
        except BadSample as bad:  # whose path is temporary
            reason = f"does not give a scene: {Path(bad.path).name} {bad.reason}"
            raise BadSample(source, reason, bad.remedy, bad.trouble) from bad
        _say_each(f"{name}: readers will drop", scene.dropped)
        if doubt := doubt_of(scene):
            say(f"{name}: {doubt}")
        if not target.exists():
            unfinished.rename(target)
            say(f"{target} is ready, {len(scene.frames)} usable frames")
        elif _identical(unfinished, target):
            say(f"{target} is already complete, nothing to do")
        else:
            raise FileExistsError(
                f"{target} exists and is not a copy of {source}; remove it, or give another scene "
                "name or output folder"
            )


def prepare_7scenes(
    source: Path, out: Path, scene: str | None = None, depth_scale: DepthScale = 1000
) -> Path:
    """Copy a 7-Scenes sequence to ``out/scans/<scene>``, complete or not at all.

    Reads ``frame-XXXXXX.{color.jpg|color.png, depth.png, pose.txt}`` and the 3x3
    ``camera-intrinsics.txt`` of the depth camera. Depth is converted to mm, and pixels marked 65535
    become 0. Poses are copied unchanged: both datasets store camera to world.

    Args:
        source: folder of the sequence.
        out: root of the copy; other scenes in it stay unchanged.
        scene: name of the scene, by default that of the source folder.
        depth_scale: units per metre of its depth, or ``sun``; 7-Scenes itself uses mm.

    Returns:
        The folder of the scene.

    Raises:
        BadSample: a file is missing or damaged, or its depth exceeds 16-bit mm; nothing is left
            behind.
        FileExistsError: see :func:`new_scene`.
    """
    check_scale(depth_scale)
    name = scene or source.resolve().name
    with new_scene(out, name, source) as folder:
        _copy_7scenes(source, folder, depth_scale)
    return out / "scans" / name


def prepare_scannet(source: Path, out: Path, frames: int | None = 32) -> Path:
    """Export a ScanNet ``.sens`` recording to ``out/scans/<name of the file>``.

    Writes what SensReader writes, complete or not at all: ``color/<i>.jpg`` byte for byte as
    recorded (``.png`` if it is not JPEG), ``depth/<i>.png`` in mm, ``pose/<i>.txt`` and four
    ``intrinsic/*.txt``, where i counts the frames of the recording.

    Args:
        source: the recording, such as ``scene0000_00.sens``.
        out: root of the export; other scenes in it stay unchanged.
        frames: number of frames, evenly spaced from the first to the last frame that has a pose
            (tracking was not lost) and depth; all of these if there are fewer. The paper follows
            PAVE with 32 per scene. None exports every frame, as SensReader does; readers drop the
            unusable ones.

    Returns:
        The folder of the scene.

    Raises:
        ValueError: ``frames`` is below 1.
        BadSample: the recording is damaged or cannot be used; nothing is left behind.
        FileExistsError: see :func:`new_scene`; another number of ``frames`` is another scene.
    """
    if frames is not None and frames < 1:
        raise ValueError(f"frames={frames}; give 1 or more, or None for all of them")
    recording = open_sens(source)
    chosen = list(recording.frames)
    if frames is not None:
        left_out = {frame.id: reason for frame in chosen if (reason := _trouble(recording, frame))}
        usable = [frame for frame in chosen if frame.id not in left_out]
        _say_each(f"{source.name}: leaves out", left_out)
        if not usable:
            raise BadSample(
                source,
                f"has {len(chosen)} frames, none with a pose and depth",
                "Leave the scene out; its tracking or its depth was lost from beginning to end",
            )
        say(f"{source.name}: {len(usable)} of {len(chosen)} frames have a pose and depth")
        chosen = [usable[place] for place in evenly_spaced(len(usable), frames)]
    with new_scene(out, source.stem, source) as folder:
        for name, matrix in recording.matrices.items():
            write_matrix(folder / "intrinsic" / f"{name}.txt", matrix)
        for frame in track(chosen, f"Exporting {source.stem}"):
            _export(recording, frame, folder)
    return out / "scans" / source.stem


def evenly_spaced(length: int, count: int) -> list[int]:
    """``count`` of ``length`` indices, from the first to the last; all if there are fewer."""
    if count >= length:
        return list(range(length))
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def write_matrix(path: Path, matrix: Tensor) -> None:
    """Write a matrix, one row per line, with enough digits for float32."""
    np.savetxt(path, matrix.numpy(), fmt="%.9g")


def write_depth(path: Path, depth_mm: Tensor, source: Path, what: str, remedy: str) -> None:
    """Write depth (H, W) as 16-bit PNG in whole mm.

    Raises:
        BadSample: of ``source``, with ``what`` and ``remedy``: it has depth beyond 16-bit mm.
    """
    if depth_mm.max() > np.iinfo(np.uint16).max:
        reason = f"{what} up to {depth_mm.max() / 1000:.0f} m; 16-bit mm end at 65.535 m"
        raise BadSample(source, reason, remedy)
    Image.fromarray(depth_mm.round().numpy().astype(np.uint16)).save(path)


def _trouble(recording: SensFile, frame: SensFrame) -> str:
    """Why readers would drop a frame of a recording; empty if they would not."""
    if reason := pose_trouble(frame.pose):
        return reason
    packed = recording.depth_format != "zlib_ushort"
    if packed or maybe_empty(frame.depth_bytes, recording.depth_size):
        try:
            return "" if measured(recording.read_stored_depth(frame)).any() else NO_DEPTH
        except BadSample:  # exporting this frame raises the error
            return ""
    return ""


def _say_each(what: str, reasons: Mapping[int, str]) -> None:
    """Print frames, grouped by reason."""
    for reason in dict.fromkeys(reasons.values()):
        frames = [str(frame) for frame, why in reasons.items() if why == reason]
        some = ", ".join(frames[:8]) + (", …" if len(frames) > 8 else "")
        say(f"{what} {len(frames)} frames ({some}): {reason}")


def _export(recording: SensFile, frame: SensFrame, folder: Path) -> None:
    suffix = "jpg" if recording.colour_format == "jpeg" else "png"
    colour = folder / "color" / f"{frame.id}.{suffix}"
    pixels = recording.read_colour(frame)  # decoded to detect damage
    if recording.colour_format == "raw":
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(colour)
    else:
        colour.write_bytes(recording.stored_colour(frame))
    write_depth(
        folder / "depth" / f"{frame.id}.png",
        recording.read_depth(frame),
        recording.path,
        f"frame {frame.id} has depth (at {recording.depth_shift:g} units per metre)",
        "Leave the scene out, or correct depth_shift in the file's header",
    )
    write_matrix(folder / "pose" / f"{frame.id}.txt", frame.pose)


def _copy_7scenes(source: Path, folder: Path, scale: DepthScale) -> None:
    depths = sorted(source.glob("frame-*.depth.png"))
    intrinsics = source / "camera-intrinsics.txt"
    if not depths or not intrinsics.is_file():
        raise BadSample(
            source,
            f"has {len(depths)} frame-*.depth.png and "
            f"{'a' if intrinsics.is_file() else 'no'} camera-intrinsics.txt",
            "Give the folder of one sequence; its camera is fx = fy = 585, cx = 320, cy = 240",
        )
    shutil.copyfile(intrinsics, folder / "intrinsic" / "intrinsic_depth.txt")
    for path in track(depths, f"Copying {source.name}"):
        name = path.name.removesuffix(".depth.png")
        number = int(name.removeprefix("frame-"))
        stored = stored_depth(path)
        write_depth(
            folder / "depth" / f"{number}.png",
            torch.from_numpy(in_mm(stored * measured(stored), scale)),
            path,
            f"has depth (at {scale} units per metre)",
            "Give the units per metre as --depth-scale",
        )
        colour = next(source.glob(f"{name}.color.[jp][pn]g"), None)
        pose = source / f"{name}.pose.txt"
        if colour is None or not pose.is_file():
            raise BadSample(
                path,
                f"has no {name}.pose.txt" if colour else f"has no {name}.color.jpg or .png",
                "Copy the sequence again, with all of its files",
            )
        read_colour(colour)  # decoded to detect damage
        shutil.copyfile(colour, folder / "color" / f"{number}{colour.suffix}")
        shutil.copyfile(pose, folder / "pose" / f"{number}.txt")


def _identical(one: Path, other: Path) -> bool:
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    if files != {path.relative_to(other) for path in other.rglob("*") if path.is_file()}:
        return False
    return all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
