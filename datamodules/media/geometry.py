"""Triangle meshes from files, whole or not at all.

open3d reads .stl files only: it crashes on faces between vertices that do not exist, returns the
first part of a truncated .ply with a warning only, and opens the materials that an .obj names,
wherever they are.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.samples import BadSample
from vlynx_pl.io.errors import PARSE_ERRORS

_AGAIN: Final = "Copy or export the file again; it may be cut off"
_PLY_ROWS: Final = re.compile(rb"^element[ \t]+\S+[ \t]+(\S+)", re.MULTILINE)
_LONGEST_HEADER: Final = 1 << 16
_Arrays = tuple[NDArray[Any], NDArray[Any]]  # points (V, 3) and triangles (M, 3)


class Mesh(NamedTuple):
    """Triangles between points."""

    points: Tensor  # (V, 3) float64
    triangles: Tensor  # (M, 3) int64


def read_mesh(path: Path) -> Mesh:
    """Read a triangle mesh (.ply, .obj, .stl); polygons become fans around their first corner.

    Raises:
        BadSample: the file is missing, of another kind, truncated or without triangles, or has
            vertices that are not finite or do not exist. A truncated .obj goes unnoticed, since
            such files do not state their length.
    """
    readers = {".obj": _read_obj, ".ply": _read_ply, ".stl": _read_stl}
    if (suffix := path.suffix.lower()) not in readers:
        raise BadSample(path, "is not a mesh by its name", f"Convert it to {', '.join(readers)}")
    if not path.is_file():
        raise BadSample(path, "is not a file", "Give a triangle mesh", "missing")
    points, triangles = readers[suffix](path)
    if not len(points) or not len(triangles):
        counts = f"{len(points)} points and {len(triangles)} triangles"
        remedy = "Export the mesh again; a point cloud must be turned into one first"
        raise BadSample(path, f"has {counts}, but a mesh is needed", remedy)
    if not np.isfinite(points).all():
        raise BadSample(path, "has vertices that are not finite", "Export the mesh again")
    if not (triangles.min() >= 0 and triangles.max() < len(points)):
        raise BadSample(path, "has triangles between vertices that it lacks", _AGAIN)
    return Mesh(
        torch.from_numpy(points.astype(np.float64)), torch.from_numpy(triangles.astype(np.int64))
    )


def _fan(corners: Sequence[float]) -> list[list[float]]:
    if len(corners) < 3:
        raise ValueError(f"a face of {len(corners)} corners")
    return [[corners[0], *pair] for pair in pairwise(corners[1:])]


def _read_obj(path: Path) -> _Arrays:
    points: list[list[float]] = []
    triangles: list[list[float]] = []
    try:
        for line in path.read_text("latin-1").splitlines():
            match line.split():
                case ["v", x, y, z, *_]:
                    points.append([float(x), float(y), float(z)])
                case ["f", *corners]:  # vertex/texture/normal, from 1 or backwards from -1
                    face = [int(corner.split("/")[0]) for corner in corners]
                    triangles += _fan([n - 1 if n > 0 else len(points) + n for n in face])
    except (ValueError, OverflowError) as error:
        raise BadSample(path, f"cannot be read as OBJ ({error!r:.200})", _AGAIN) from error
    return np.array(points).reshape(-1, 3), np.array(triangles, float).reshape(-1, 3)


def _read_stl(path: Path) -> _Arrays:
    open3d = import_library("open3d")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        mesh = open3d.io.read_triangle_mesh(str(path))
    return np.asarray(mesh.vertices), np.asarray(mesh.triangles)


def _read_ply(path: Path) -> _Arrays:
    plyfile = import_library("plyfile")
    with path.open("rb") as file:
        header, body, _ = file.read(_LONGEST_HEADER).partition(b"end_header")
    if not body or not header.startswith(b"ply"):
        raise BadSample(path, "has no .ply header", _AGAIN)
    points, triangles = np.zeros((0, 3)), list[list[float]]()
    try:
        # plyfile allocates what the header claims; every row takes at least a byte.
        if max(map(float, _PLY_ROWS.findall(header)), default=0) > path.stat().st_size:
            raise ValueError("it is shorter than its header says")
        elements = {element.name: element for element in plyfile.PlyData.read(path, mmap=False)}
        if vertices := elements.get("vertex"):
            points = np.stack([vertices[axis].astype(float) for axis in "xyz"], -1)
        if faces := elements.get("face"):
            [corners] = {"vertex_indices", "vertex_index"} & set(faces.data.dtype.names)
            for face in faces[corners]:
                triangles += _fan(face.tolist())
    except (plyfile.PlyParseError, *PARSE_ERRORS, MemoryError) as error:
        raise BadSample(path, f"cannot be read as PLY ({error!r:.200})", _AGAIN) from error
    return points, np.array(triangles).reshape(-1, 3)
