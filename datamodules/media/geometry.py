"""Triangle meshes and point clouds from files, whole or not at all.

open3d warns and goes on with what it got: nothing, or the first half of a file that was cut off.
It also opens the materials that an .obj names, wherever they are; that is read here, as .ply is.
"""

import re
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.media.ply import read_ply
from datamodules.samples import BadSample

MESH_SUFFIXES: Final = frozenset({".ply", ".obj", ".stl"})
CLOUD_SUFFIXES: Final = frozenset({".ply", ".pcd", ".xyz"})

_LONGEST_HEADER = 1 << 16
_AGAIN = "Copy or export the file again; it may be cut off"
_Arrays = tuple[NDArray[Any], NDArray[Any]]  # points (V, 3) and triangles (M, 3)


class Geometry(NamedTuple):
    """A mesh, or without triangles a cloud of points."""

    points: Tensor  # (V, 3) float64
    triangles: Tensor  # (M, 3) int64


def read_geometry(path: Path) -> Geometry:
    """Read a triangle mesh (.ply, .obj, .stl) or a point cloud (.ply without faces, .pcd, .xyz).

    Raises:
        BadSample: the file is missing, of another kind, cut off, empty, or has vertices that are
            not finite or that are not there. (A cloud's points that are not finite are left out:
            that is how .pcd marks what the scanner missed.) Of .obj and .xyz, whose files do not
            say how long they are, a missing end goes unnoticed.
    """
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES | CLOUD_SUFFIXES:
        known = ", ".join(sorted(MESH_SUFFIXES | CLOUD_SUFFIXES))
        raise BadSample(path, "is no mesh or point cloud by its name", f"Convert it to {known}")
    if not path.is_file():
        raise BadSample(path, "is no file", "Give a mesh or a point cloud", "missing")
    if suffix == ".ply":
        points, triangles = read_ply(path)
    elif suffix == ".obj":
        points, triangles = _read_obj(path)
    else:
        points, triangles = _read(path)
    is_mesh = suffix in MESH_SUFFIXES - CLOUD_SUFFIXES or len(triangles) > 0
    if not is_mesh:
        points = points[np.isfinite(points).all(1)]
    if not len(points) or (is_mesh and not len(triangles)):
        counts = f"{len(points)} points and {len(triangles)} triangles"
        raise BadSample(path, f"has {counts}, or cannot be decoded", _AGAIN)
    if not np.isfinite(points).all():
        raise BadSample(path, "has vertices that are not finite", "Export the mesh again")
    if is_mesh and not (triangles.min() >= 0 and triangles.max() < len(points)):
        raise BadSample(path, "has triangles between vertices that it lacks", _AGAIN)
    return Geometry(
        torch.from_numpy(points.astype(np.float64)), torch.from_numpy(triangles.astype(np.int64))
    )


def _read_obj(path: Path) -> _Arrays:
    """Vertices and faces, and nothing of the files that an .obj may name."""
    points: list[list[float]] = []
    triangles: list[list[int]] = []
    try:
        for line in path.read_text("latin-1").splitlines():
            match line.split():
                case ["v", x, y, z, *_]:
                    points.append([float(x), float(y), float(z)])
                case ["f", *corners]:  # vertex/texture/normal, from 1 or backwards from -1
                    face = [int(corner.split("/")[0]) for corner in corners]
                    first, *others = [n - 1 if n > 0 else len(points) + n for n in face]
                    triangles += [[first, *pair] for pair in pairwise(others)]
    except (ValueError, OverflowError) as error:
        raise BadSample(path, f"cannot be read as OBJ ({error!r:.200})", _AGAIN) from error
    return np.array(points).reshape(-1, 3), np.array(triangles, float).reshape(-1, 3)


def _read(path: Path) -> _Arrays:
    if path.suffix.lower() == ".pcd":
        _check_pcd(path)
    open3d = import_library("open3d")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        if path.suffix.lower() in MESH_SUFFIXES:
            mesh = open3d.io.read_triangle_mesh(str(path))
            return np.asarray(mesh.vertices), np.asarray(mesh.triangles)
        cloud = open3d.io.read_point_cloud(str(path))
        return np.asarray(cloud.points), np.empty((0, 3))


def _check_pcd(path: Path) -> None:
    """Raise BadSample for a PCD header that open3d crashes on, or a file that ends too early."""
    header: dict[str, list[str]] = {}
    with path.open("rb") as file:
        while file.tell() < _LONGEST_HEADER and (line := file.readline(_LONGEST_HEADER)):
            name, *words = line.decode("latin-1").split() or [""]
            header[name] = words
            if name == "DATA":
                break
        else:
            raise BadSample(path, "has no .pcd header", _AGAIN)
        data = file.read()
    points = "".join(header.get("POINTS", []))
    if not re.fullmatch("[0-9]{1,18}", points):
        raise BadSample(path, "has a PCD header without the number of points", _AGAIN)
    fields, sizes = header.get("FIELDS", []), header.get("SIZE", [])
    counts = header.get("COUNT", ["1"] * len(fields))
    if not (
        len(fields) == len(sizes) == len(counts) == len(header.get("TYPE", []))
        and set(sizes) <= {"1", "2", "4", "8"}
        and all(re.fullmatch("[1-9][0-9]{0,3}", count) for count in counts)
    ):
        raise BadSample(path, "has a PCD header whose fields make no sense", _AGAIN)
    row = sum(int(size) * int(count) for size, count in zip(sizes, counts, strict=True))
    match header["DATA"]:
        case ["ascii"]:
            whole = sum(bool(line.strip()) for line in data.splitlines()) >= int(points)
        case ["binary"]:
            whole = len(data) >= int(points) * row
        case ["binary_compressed"]:  # lengths before and after, which open3d trusts
            packed, unpacked = struct.unpack("<2I", data[:8].ljust(8, b"\0"))
            whole = packed <= len(data) - 8 and unpacked == int(points) * row
        case _:
            whole = False
    if not whole:
        raise BadSample(path, "is shorter than its header says", _AGAIN)
