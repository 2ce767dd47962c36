"""Undamaged scenes, recordings, meshes and entries of the frame cache."""

import io
import struct
import zlib
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from tests.datamodules.conftest import write_scannet_scene
from tests.robustness import readings
from tests.robustness.inputs import Original, read_files


def image(form: str) -> bytes:
    """Return an image of noise, 32x24."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def scene(place: str) -> dict[str, bytes]:
    """Return a ScanNet scene of three frames."""
    with TemporaryDirectory() as folder:
        intrinsic = write_scannet_scene(Path(folder, place)) / "intrinsic"
        camera = [[32, 0, 15.5, 0], [0, 32, 11.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        np.savetxt(intrinsic / "intrinsic_color.txt", camera)
        return read_files(Path(folder))


def scenes() -> list[Original]:
    """Return the files of a ScanNet scene among others, and the list of training scenes."""
    files: dict[str, bytes] = {}
    for number in range(3):
        files |= scene(f"media/scene000{number}_00")
    damaged = {
        "color/20.jpg": "image",
        "depth/20.png": "image",
        "pose/20.txt": "matrix",
        "intrinsic/intrinsic_depth.txt": "matrix",
    }
    found = []
    for name, kind in damaged.items():
        place = f"media/scene0001_00/{name}"
        ways = (partial(readings.see_scene, name=place), partial(readings.align_depth, name=place))
        found.append(Original(kind, place, files, ways))
    lists = {
        "media/scannetv2_train.txt": b"scene0000_00\nscene0002_00\n",
        "media/scannetv2_val.txt": b"scene0001_00\n",
    }
    place = next(iter(lists))
    way = partial(readings.align_listed, name=place)
    return [*found, Original("list of scenes", place, files | lists, (way,), ("scene0000_00",))]


def recording() -> list[Original]:
    """Return a ScanNet recording in SensReader's layout, version 4."""
    depth = zlib.compress((np.arange(12 * 16, dtype="<u2") * 7 + 1000).tobytes())
    colour = image("JPEG")
    cameras = [np.diag([width, width, 1.0, 1.0]) for width in (32, 16)]
    matrices = np.stack([cameras[0], np.eye(4), cameras[1], np.eye(4)]).astype("<f4")
    data = struct.pack("<IQ3s", 4, 3, b"toy") + matrices.tobytes()
    data += struct.pack("<2i4IfQ", 2, 1, 32, 24, 16, 12, 1000, 3)
    for number in range(3):
        data += np.eye(4, dtype="<f4").tobytes()
        data += struct.pack("<4Q", number, number, len(colour), len(depth)) + colour + depth
    name = "scene0000_00.sens"
    return [Original(".sens", name, {name: data}, (partial(readings.export_recording, name=name),))]


def meshes() -> list[Original]:
    """Return a wall two metres from the camera in every mesh format."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-2, 2, 6), np.linspace(-2, 2, 6)))
    corners = np.stack([x, y, np.full_like(x, 2)], -1).astype("<f4")  # (36, 3)
    first = np.arange(30)[np.arange(30) % 6 < 5]
    faces = np.concatenate(
        [
            np.stack([first, first + 1, first + 6], -1),
            np.stack([first + 1, first + 7, first + 6], -1),
        ]
    ).astype("<i4")
    mesh = "ply\nformat {} 1.0\ncomment toy\nelement vertex 36\n"
    mesh += "".join(f"property float {axis}\n" for axis in "xyz")
    mesh += "element face 50\nproperty list uchar int vertex_indices\n"
    rows = "".join(f"{a} {b} {c}\n" for a, b, c in corners)
    triangles = "".join(f"3 {a} {b} {c}\n" for a, b, c in faces)
    stl = b"toy".ljust(80) + struct.pack("<I", 50)
    obj = "".join(f"v {row}\n" for row in rows.splitlines())
    obj += "".join(f"f {a} {b} {c}\n" for a, b, c in faces + 1)
    little = "binary_little_endian"
    made = {
        "binary.ply": (mesh.format(little) + "end_header\n").encode()
        + corners.tobytes()
        + b"".join(b"\3" + face.tobytes() for face in faces),
        "text.ply": (mesh.format("ascii") + "end_header\n" + rows + triangles).encode(),
        "wall.obj": obj.encode(),
        "wall.stl": stl + b"".join(struct.pack("<12f2x", 0, 0, 1, *corners[f].flat) for f in faces),
    }
    beside = scene("scene")
    return [
        Original("mesh", name, {**beside, name: data}, (partial(readings.render_mesh, name=name),))
        for name, data in made.items()
    ]


def cache_entry() -> list[Original]:
    """Return an entry of a frame cache."""
    with TemporaryDirectory() as folder:
        readings.load_entry(Path(folder), "")
        (path,) = Path(folder).rglob("*.safetensors")
        name, data = str(path.relative_to(folder)), path.read_bytes()
    return [Original("frame cache", name, {name: data}, (partial(readings.load_entry, name=name),))]
