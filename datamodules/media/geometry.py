"""Triangle meshes from files, whole or not at all.

PLY and OBJ are parsed here. open3d crashes on faces between vertices that do not exist, returns the
first part of a truncated file with a warning only, and opens the materials that an .obj names,
wherever they are.
"""

import re
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.samples import BadSample

_AGAIN: Final = "Copy or export the file again; it may be cut off"
_PLY_TYPES: Final = {
    **{"char": "i1", "short": "i2", "int": "i4", "int8": "i1", "int16": "i2", "int32": "i4"},
    **{"uchar": "u1", "ushort": "u2", "uint": "u4", "uint8": "u1", "uint16": "u2", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_PLY_ORDERS: Final = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_PLY_END: Final = re.compile(rb"^end_header[ \t]*\r?\n", re.MULTILINE)
_LONGEST_HEADER: Final = 1 << 16
_Arrays = tuple[NDArray[Any], NDArray[Any]]  # points (V, 3) and triangles (M, 3)


class Mesh(NamedTuple):
    """Triangles between points."""

    points: Tensor  # (V, 3) float64
    triangles: Tensor  # (M, 3) int64


class _Property(NamedTuple):
    name: str
    kind: np.dtype[Any]
    length: np.dtype[Any] | None  # of the number before a list


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
    data = path.read_bytes()
    end = _PLY_END.search(data, 0, _LONGEST_HEADER)
    if end is None or not data.startswith(b"ply"):
        raise BadSample(path, "has no .ply header", _AGAIN)
    points, triangles = np.zeros((0, 3)), list[list[float]]()
    try:
        text, elements = _ply_header(data[: end.start()].decode("latin-1").splitlines())
        data = data[end.end() :]
        if text:  # numbers in text become float64
            data = np.array([float(word) for word in data.split()]).tobytes()
        stream = BytesIO(data)
        for name, rows, properties in elements:
            if any(one.length for one in properties):
                for _ in range(rows):
                    triangles += _ply_face(stream, properties)
            elif properties:
                table = _take(stream, np.dtype([(one.name, one.kind) for one in properties]), rows)
                if name == "vertex":
                    points = np.stack([table[axis].astype(float) for axis in "xyz"], -1)
    except EOFError as error:
        raise BadSample(path, "is shorter than its header says", _AGAIN) from error
    except (LookupError, ValueError, OverflowError) as error:
        raise BadSample(path, f"cannot be read as PLY ({error!r:.200})", _AGAIN) from error
    return points, np.array(triangles).reshape(-1, 3)


def _ply_header(lines: Sequence[str]) -> tuple[bool, list[tuple[str, int, list[_Property]]]]:
    """Whether the body is text; and name, number of rows and properties of each element."""
    elements: list[tuple[str, int, list[_Property]]] = []
    form, order = "", ""

    def kind(name: str) -> np.dtype[Any]:
        return np.dtype("f8" if form == "ascii" else order + _PLY_TYPES[name])

    for line in lines:
        match line.split():
            case ["format", form, *_]:
                order = _PLY_ORDERS[form]
            case ["element", name, count] if int(count) >= 0:
                elements.append((name, int(count), []))
            case ["property", "list", length, item, name]:
                elements[-1][2].append(_Property(name, kind(item), kind(length)))
            case ["property", item, name]:
                elements[-1][2].append(_Property(name, kind(item), None))
            case ["element" | "property", *_]:
                raise ValueError(line)
    if not form:
        raise ValueError("no format")
    return form == "ascii", elements


def _ply_face(stream: BytesIO, properties: Sequence[_Property]) -> list[list[float]]:
    """The triangles of the next row, none if it is not a face."""
    triangles: list[list[float]] = []
    for name, kind, length in properties:
        count = 1
        if length is not None:
            [number] = _take(stream, length, 1)
            if (count := int(number)) != number or count < 0:
                raise ValueError(f"a list of {number}")
        values = _take(stream, kind, count)
        if name in {"vertex_indices", "vertex_index"}:
            triangles += _fan(values.tolist())
    return triangles


def _take(stream: BytesIO, kind: np.dtype[Any], count: int) -> NDArray[Any]:
    data = stream.read(count * kind.itemsize)
    if len(data) < count * kind.itemsize:
        raise EOFError
    return np.frombuffer(data, kind)
