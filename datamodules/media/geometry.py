"""Triangle meshes from files, whole or not at all.

open3d warns and goes on with what it got: nothing, or the first half of a file that was cut off.
It also opens the materials that an .obj names, wherever they are; that is read here, as .ply is.
"""

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

_SUFFIXES: Final = (".obj", ".ply", ".stl")
_AGAIN: Final = "Copy or export the file again; it may be cut off"
_Arrays = tuple[NDArray[Any], NDArray[Any]]  # points (V, 3) and triangles (M, 3)


class Mesh(NamedTuple):
    """Triangles between points."""

    points: Tensor  # (V, 3) float64
    triangles: Tensor  # (M, 3) int64


def read_mesh(path: Path) -> Mesh:
    """Read a triangle mesh (.ply, .obj, .stl).

    Raises:
        BadSample: the file is missing, of another kind, cut off, without triangles, or has vertices
            that are not finite or that are not there. Of .obj, whose files do not say how long they
            are, a missing end goes unnoticed.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        remedy = f"Convert it to {', '.join(_SUFFIXES)}"
        raise BadSample(path, "is not a mesh by its name", remedy)
    if not path.is_file():
        raise BadSample(path, "is not a file", "Give a triangle mesh", "missing")
    read = {".ply": read_ply, ".obj": _read_obj, ".stl": _read_stl}[suffix]
    points, triangles = read(path)
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


def _read_stl(path: Path) -> _Arrays:
    open3d = import_library("open3d")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        mesh = open3d.io.read_triangle_mesh(str(path))
    return np.asarray(mesh.vertices), np.asarray(mesh.triangles)
