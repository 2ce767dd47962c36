"""PLY files, text or binary: vertices, and faces cut into triangles.

Read here, since open3d crashes on faces between vertices that are not there, and says nothing of a
file that is cut off.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.samples import BadSample

_TYPES: Final = {
    **{"char": "i1", "short": "i2", "int": "i4", "int8": "i1", "int16": "i2", "int32": "i4"},
    **{"uchar": "u1", "ushort": "u2", "uint": "u4", "uint8": "u1", "uint16": "u2", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS: Final = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_END: Final = re.compile(rb"^end_header[ \t]*\r?\n", re.MULTILINE)
_LONGEST_HEADER: Final = 1 << 16
_ROWS: Final = 1024  # with lists, that are looked at together
_AGAIN: Final = "Copy or export the file again; it may be cut off"


class _Property(NamedTuple):
    name: str
    kind: str  # of numpy
    length: str = ""  # numpy's kind of the number before a list


class _Element(NamedTuple):
    name: str
    rows: int
    properties: list[_Property]


def read_ply(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vertices (V, 3), and the vertices of each triangle (M, 3) by number; a cloud has no triangle.

    A polygon becomes a fan of triangles around its first corner.

    Raises:
        BadSample: the header cannot be read, or the file is shorter than it says.
    """
    data = path.read_bytes()
    end = _END.search(data, 0, _LONGEST_HEADER)
    if end is None or not data.startswith(b"ply"):
        raise BadSample(path, "has no .ply header", _AGAIN)
    parts = {"vertex": [np.zeros((0, 3))], "face": [np.zeros((0, 3))]}
    try:
        form, elements = _header(data[: end.start()].decode("latin-1").splitlines())
        data = data[end.end() :]
        if form == "ascii":  # as if the numbers were binary
            data = np.array([float(word) for word in data.split()]).tobytes()
        at = 0
        for element in elements:
            for rows in _rows(data, at, element):
                at += rows.nbytes
                if element.name == "vertex":
                    parts["vertex"].append(np.stack([rows[c].astype(float) for c in "xyz"], -1))
                elif element.name == "face":
                    parts["face"].append(_fans(rows))
    except EOFError as error:
        raise BadSample(path, "is shorter than its header says", _AGAIN) from error
    except (LookupError, ValueError, OverflowError) as error:
        raise BadSample(path, f"cannot be read as PLY ({error!r:.200})", _AGAIN) from error
    return np.concatenate(parts["vertex"]), np.concatenate(parts["face"])


def _header(lines: Sequence[str]) -> tuple[str, list[_Element]]:
    elements: list[_Element] = []
    form, order = "", ""

    def kind(name: str) -> str:
        return "f8" if form == "ascii" else order + _TYPES[name]

    for line in lines:
        match line.split():
            case ["format", form, *_]:
                order = _ORDERS[form]
            case ["element", name, count] if int(count) >= 0:
                elements.append(_Element(name, int(count), []))
            case ["property", "list", length, item, name]:
                elements[-1].properties.append(_Property(name, kind(item), kind(length)))
            case ["property", item, name]:
                elements[-1].properties.append(_Property(name, kind(item)))
            case ["element" | "property", *_]:
                raise ValueError(line)
    if not form:
        raise ValueError("no format")
    return form, elements


def _rows(data: bytes, at: int, element: _Element) -> Iterator[NDArray[Any]]:
    """Structured arrays of rows whose lists are equally long, which most often all are.

    Raises:
        EOFError: there are fewer rows.
    """
    left = element.rows if element.properties else 0
    while left:
        fields: list[Any] = []
        lengths: dict[str, int] = {}
        place = at
        for name, kind, length in element.properties:
            if length:
                lengths[f"{name} length"] = count = _whole(data, place, np.dtype(length))
                fields += [(f"{name} length", length), (name, kind, (count,))]
            else:
                fields.append((name, kind))
            place = at + np.dtype(fields).itemsize
        fitting = (len(data) - at) // (place - at)
        rows = np.frombuffer(data, fields, min(left, _ROWS if lengths else left, fitting), at)
        same = np.ones(len(rows), bool)
        for name, count in lengths.items():
            same &= rows[name] == count
        rows = rows if same.all() else rows[: same.argmin()]
        if not len(rows):
            raise EOFError
        yield rows
        at, left = at + rows.nbytes, left - len(rows)


def _whole(data: bytes, at: int, kind: np.dtype[Any]) -> int:
    if at + kind.itemsize > len(data):
        raise EOFError
    number = np.frombuffer(data, kind, 1, at)[0]
    if number != int(number):
        raise ValueError(f"a list of {number}")
    return int(number)


def _fans(faces: NDArray[Any]) -> NDArray[np.float64]:
    [name] = [
        name for name in faces.dtype.names or () if name in {"vertex_indices", "vertex_index"}
    ]
    corners = faces[name].astype(float)  # (F, corners), exact up to 2^53
    if corners.shape[1] < 3:
        raise ValueError(f"a face of {corners.shape[1]} corners")
    first = np.broadcast_to(corners[:, :1], corners[:, 2:].shape)
    return np.stack([first, corners[:, 1:-1], corners[:, 2:]], -1).reshape(-1, 3)
