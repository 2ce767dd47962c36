"""Depth for scenes that have colour, camera poses and a mesh, but no depth frames.

It is rendered from the mesh at the pose of each colour frame.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich import print as say
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.media.geometry import Mesh, read_mesh
from datamodules.media.images import read_colour
from datamodules.media.prepare import new_scene, write_depth, write_matrix
from datamodules.media.scannet import NO_DEPTH, intrinsics_file, read_camera, read_pose
from datamodules.samples import BadSample
from vlynx_pl.io.progress import track


def prepare_depth_from_mesh(
    mesh: Path, scene: Path, out: Path, intrinsics: Path | None = None, width: int = 640
) -> Path:
    """Copy a scene to ``out/scans/<name of the scene>`` and add depth.

    Depth is in mm along the optical axis of the colour camera, 0 where a ray hits nothing. Frames
    without a usable pose, and those that see nothing of the mesh, are left out and printed.

    Args:
        mesh: triangle mesh (.ply, .obj, .stl), in metres and in the world of the poses (for
            ScanNet, ``_vh_clean_2.ply`` before axis alignment).
        scene: folder in ScanNet's exported layout with ``color/`` and ``pose/``.
        out: root of the completed scene; other scenes in it stay unchanged.
        intrinsics: 3x3 or 4x4 camera matrix of the colour frames, by default the scene's
            ``intrinsic/intrinsic_color.txt``.
        width: of the depth frames, in pixels; narrower colour frames keep their size.

    Returns:
        The folder of the completed scene.

    Raises:
        ValueError: ``width`` is below 2.
        BadSample: a file is missing or damaged, half of the frames see nothing of the mesh, or it
            is not in metres; nothing is left behind.
        FileExistsError: see :func:`datamodules.media.prepare.new_scene`.
    """
    if width < 2:
        raise ValueError(f"width={width}, but depth frames need 2 pixels or more")
    colours = sorted(
        (scene / "color").glob("[!.]*.[jpJP][pnPN][gG]"), key=lambda path: (len(path.name), path)
    )
    if not colours:
        remedy = "Give a scene in ScanNet's layout: color/<i>.jpg, pose/<i>.txt, intrinsic/"
        raise BadSample(scene, "has no frames in color/", remedy)
    colour_size = _size(colours[0])
    scale = min(width / colour_size[1], 1)
    size = (round(colour_size[0] * scale), round(colour_size[1] * scale))
    expected = intrinsics_file(scene, "color") or scene / "intrinsic" / "intrinsic_color.txt"
    colour_camera = _read_camera(intrinsics or expected, colour_size)
    camera = _scaled(colour_camera, colour_size, size)
    render = depth_renderer(read_mesh(mesh), camera[:3, :3], size)
    seen: dict[str, float] = {}
    name = scene.resolve().name
    with new_scene(out, name, scene) as folder:
        for part, matrix in {"color": colour_camera, "depth": camera}.items():
            write_matrix(folder / "intrinsic" / f"intrinsic_{part}.txt", matrix)
            write_matrix(folder / "intrinsic" / f"extrinsic_{part}.txt", torch.eye(4))
        for colour in track(colours, f"Rendering {name}"):
            pose = scene / "pose" / f"{colour.stem}.txt"
            try:
                matrix = read_pose(pose)
            except BadSample as bad:
                say(f"Frame {colour.stem} is left out: {bad.reason}")
                continue
            if _size(colour) != colour_size:
                remedy = "Give frames of one camera, uncropped"
                raise BadSample(colour, f"is not of the size of {colours[0].name}", remedy)
            depth = render(matrix)
            seen[colour.stem] = float((depth.round() > 0).float().mean())
            if not seen[colour.stem]:
                say(f"Frame {colour.stem} is left out: {NO_DEPTH}")
                continue
            write_depth(
                folder / "depth" / f"{colour.stem}.png",
                depth,
                mesh,
                f"gives frame {colour.stem} depth",
                "Scale the mesh and the poses to metres, or cut off what is farther",
            )
            shutil.copyfile(colour, folder / "color" / colour.name)
            shutil.copyfile(pose, folder / "pose" / pose.name)
        _check_seen(seen, mesh, scene)
    return out / "scans" / name


def depth_renderer(mesh: Mesh, camera: Tensor, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return a function that renders the depth of a mesh from a camera pose.

    Triangles are visible from both sides.

    Args:
        mesh: in metres.
        camera: (3, 3) pinhole matrix in pixels, whole numbers at pixel centres.
        size: (H, W).

    Returns:
        Pose (4, 4), camera to world → depth along the optical axis, float32 (H, W) in mm, 0 where
        a ray hits nothing.
    """
    open3d = import_library("open3d")
    centre = mesh.points.mean(0)  # around which float32 is exact enough
    points = (mesh.points - centre).numpy().astype(np.float32)
    caster = open3d.t.geometry.RaycastingScene()
    caster.add_triangles(points, mesh.triangles.numpy().astype(np.uint32))
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    pixels = torch.stack([columns, rows, torch.ones_like(rows)], -1).double()
    directions = pixels @ torch.linalg.inv(camera.double()).T  # (H, W, 3), of length 1 along z

    def render(pose: Tensor) -> Tensor:
        pose = pose.double()
        turned = directions @ pose[:3, :3].T
        rays = torch.cat([(pose[:3, 3] - centre).expand_as(turned), turned], -1).float()
        # As directions have length 1 along the optical axis, the distance along the ray is depth.
        hit = caster.cast_rays(open3d.core.Tensor(rays.numpy()))["t_hit"].numpy()
        depth = torch.from_numpy(hit)
        return torch.where(depth.isfinite(), depth * 1000, 0).float()

    return render


def _check_seen(seen: dict[str, float], mesh: Path, scene: Path) -> None:
    if not seen:
        raise BadSample(scene, "has no frame with a usable pose", "Give the poses, or leave it out")
    blind = [frame for frame, part in seen.items() if part == 0]
    if 2 * len(blind) >= len(seen):
        raise BadSample(
            mesh,
            f"is seen in no pixel of {len(blind)} of {len(seen)} frames: {', '.join(blind[:8])}",
            "Check that the mesh is in metres and in the world of the poses, and that these are "
            "camera to world; remove frames that look past it from color/",
        )
    seen = {frame: part for frame, part in seen.items() if part}
    parts = torch.tensor(list(seen.values()))
    least = min(seen, key=lambda frame: seen[frame])
    say(
        f"Depth covers {parts.median():.0%} of a frame (median of {len(seen)} frames), least of "
        f"frame {least}: {seen[least]:.0%}"
    )


def _size(colour: Path) -> tuple[int, int]:
    height, width = read_colour(colour).shape[1:]  # decoded to detect damage
    return height, width


def _read_camera(path: Path, size: tuple[int, int]) -> Tensor:
    remedy = "Give the 3x3 or 4x4 matrix of the camera that took the colour frames"
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3] = read_camera(path, remedy)
    height, width = size
    if abs(camera[0, 2] / width - 0.5) >= 0.25 or abs(camera[1, 2] / height - 0.5) >= 0.25:
        raise BadSample(path, f"does not belong to a {width}x{height} colour frame", remedy)
    return camera


def _scaled(camera: Tensor, size: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The same camera for frames of another size, whole numbers at pixel centres."""
    camera = camera.clone()
    for axis, ratio in enumerate((new[1] / size[1], new[0] / size[0])):
        camera[axis, :2] *= ratio
        camera[axis, 2] = (camera[axis, 2] + 0.5) * ratio - 0.5
    return camera
