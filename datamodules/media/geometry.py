"""Triangle meshes and point clouds from files, whole or not at all.

open3d warns and goes on with what it got: nothing, or the first half of a file that was cut off.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.samples import BadSample

MESH_SUFFIXES: Final = frozenset({".ply", ".obj", ".stl"})
CLOUD_SUFFIXES: Final = frozenset({".ply", ".pcd", ".xyz"})

_LONGEST_HEADER = 1 << 16
_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
_AGAIN = "Copy or export the file again; it may be cut off"


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
    is_mesh = suffix in MESH_SUFFIXES
    if suffix == ".ply":
        is_mesh = _check_ply(path)
    elif suffix == ".pcd":
        _check_pcd(path)
    open3d = import_library("open3d")
    errors_only = open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error)
    with errors_only:
        if is_mesh:
            read = open3d.io.read_triangle_mesh(str(path))
            points, triangles = np.asarray(read.vertices), np.asarray(read.triangles)
        else:
            read = open3d.io.read_point_cloud(str(path), remove_nan_points=True)
            points, triangles = np.asarray(read.points), np.empty((0, 3))
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


def _check_ply(path: Path) -> bool:
    """Whether a PLY file has faces; raises BadSample if it is shorter than its header says."""
    header, length, lines = _header(path, b"end_header")
    ascii_rows = needed = faces = 0
    row = count = 0
    try:
        for line in [*header, ["element", "", "0"]]:
            if line[0] == "element":
                needed += count * row
                ascii_rows += count
                row, count = 0, int(line[2])
                faces = count if line[1] == "face" else faces
            elif line[0] == "property" and line[1] == "list":
                corners = 3 if line[4].startswith("vertex_ind") else 0  # or more
                row += _BYTES[line[2]] + corners * _BYTES[line[3]]
            elif line[0] == "property":
                row += _BYTES[line[1]]
    except (IndexError, KeyError, ValueError) as error:
        raise BadSample(
            path, f"has a PLY header that cannot be read ({error!r})", _AGAIN
        ) from error
    if lines < ascii_rows if ["format", "ascii", "1.0"] in header else length < needed:
        raise BadSample(path, "is shorter than its header says", _AGAIN)
    return faces > 0


def _check_pcd(path: Path) -> None:
    """Raise BadSample if a PCD file in text is shorter than its header says."""
    header, _, lines = _header(path, b"DATA")
    points = next((line[1] for line in header if line[0] == "POINTS" and len(line) > 1), "")
    if not points.isdecimal():
        raise BadSample(path, "has a PCD header without the number of points", _AGAIN)
    if ["DATA", "ascii"] in header and lines < int(points):
        raise BadSample(path, "is shorter than its header says", _AGAIN)


def _header(path: Path, last: bytes) -> tuple[list[list[str]], int, int]:
    """The words of a header's lines up to ``last``; then the bytes and lines that follow."""
    words: list[list[str]] = []
    with path.open("rb") as file:
        while file.tell() < _LONGEST_HEADER and (line := file.readline(_LONGEST_HEADER)):
            if line.strip():
                words.append(line.decode("latin-1").split())
            if line.startswith(last):
                length = path.stat().st_size - file.tell()
                return words, length, sum(bool(rest.strip()) for rest in file)
    raise BadSample(path, f"has no {path.suffix} header", _AGAIN)
