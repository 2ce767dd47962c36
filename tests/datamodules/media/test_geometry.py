import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.geometry import read_mesh
from datamodules.samples import BadSample
from tests.robustness.watched import Canary

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
FACES = [(0, 1, 2), (0, 1, 3), (1, 2, 3)]
FORMS = pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])


def write_ply(path, faces=FACES, corners=CORNERS, form="binary_little_endian"):
    """A mesh with faces of any length, each preceded by a colour; without faces, a cloud."""
    lines = ["ply", f"format {form} 1.0", "comment A b", f"element vertex {len(corners)}"]
    lines += [f"property float {axis}" for axis in "xyz"]
    if faces is not None:
        lines += [f"element face {len(faces)}", "property uchar red"]
        lines += ["property list uint8 int vertex_indices"]
    rows = [*corners.tolist(), *([9, len(face), *face] for face in faces or [])]
    order = ">" if "big" in form else "<"
    data = corners.astype(f"{order}f4").tobytes()
    for face in faces or []:
        data += struct.pack(f"{order}BB{len(face)}i", 9, len(face), *face)
    if form == "ascii":
        data = "\n".join(" ".join(map(str, row)) for row in rows).encode()
    path.write_bytes("\n".join([*lines, "end_header\n"]).encode() + data)
    return path


def refuses(path, reason):
    with pytest.raises(BadSample, match=rf"{re.escape(path.name)}: .*({reason})") as caught:
        read_mesh(path)
    return caught.value


@FORMS
def test_polygons_of_a_ply_become_fans(tmp_path, form):
    faces = [(0, 1, 2), (3, 2, 1, 0), (0, 1, 3)]
    mesh = read_mesh(write_ply(tmp_path / "m.PLY", faces, form=form))
    assert mesh.points.tolist() == CORNERS.tolist()
    assert mesh.triangles.tolist() == [[0, 1, 2], [3, 2, 1], [3, 1, 0], [0, 1, 3]]


@FORMS
@pytest.mark.parametrize("faces", [None, []])
def test_a_cloud_is_not_a_mesh(tmp_path, form, faces):
    path = write_ply(tmp_path / "m.ply", faces, form=form)
    refuses(path, "4 points and 0 triangles, but a mesh is needed.*cloud")


@given(st.floats(0, 1, exclude_max=True))
def test_a_binary_ply_truncated_anywhere(tmp_path_factory, part):
    path = write_ply(tmp_path_factory.mktemp("ply") / "m.ply")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    assert "cut off" in refuses(path, "header|early end").remedy


def test_a_text_ply_without_its_last_line(tmp_path):
    path = write_ply(tmp_path / "m.ply", form="ascii")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    refuses(path, "early end-of-file")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.ply", "ply\n", "has no .ply header"),
        ("m.ply", "ply\nelement vertex many\nend_header\n", "cannot be read as PLY"),
        ("m.ply", "ply\nelement\nend_header\n", "cannot be read as PLY"),
        ("m.ply", "ply\nformat ascii 1.0\nelement vertex 1\nproperty half\nend_header\n", "PLY"),
        ("m.ply", "ply\nformat text 1.0\nend_header\n", "don.t understand format"),
        ("m.ply", "ply\nformat ascii 1.0\nelement face 999_999_999\nend_header\n", "shorter"),
        ("m.ply", f"ply\nelement face {5000 * '9'}\nend_header\n", "shorter"),
        ("m.obj", "nothing", "0 points and 0 triangles"),
        ("m.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "3 points and 0 triangles"),
        ("m.stl", "solid", "0 points and 0 triangles"),
        ("c.xyz", "", "is not a mesh by its name. Convert it to .obj, .ply, .stl"),
    ],
)
def test_files_without_a_mesh(tmp_path, capfd, name, content, reason):
    (tmp_path / name).write_text(content)
    refuses(tmp_path / name, reason)
    assert "WARNING" not in capfd.readouterr().out


def test_a_missing_file(tmp_path):
    assert refuses(tmp_path / "m.ply", "is not a file").trouble == "missing"


@pytest.mark.parametrize("form", ["binary_little_endian", "ascii"])
@pytest.mark.parametrize("face", [(), (0, 1), (0, 1, 2, 9), (0, 1, -1), (0, 1, 2**31 - 1)])
def test_impossible_faces(tmp_path, form, face):
    """open3d crashes on most of them."""
    path = write_ply(tmp_path / "m.ply", [(0, 1, 2), face], form=form)
    refuses(path, "a face of . corners|triangles between vertices that it lacks")


@pytest.mark.parametrize("length", ["-1", "2.5", "nan", "inf", "1e300"])
def test_impossible_lengths_of_lists(tmp_path, length):
    path = write_ply(tmp_path / "m.ply", form="ascii")
    path.write_text(path.read_text().replace("3 0 1 2", f"{length} 0 1 2"))
    refuses(path, "cannot be read as PLY")


def test_vertices_at_infinity(tmp_path):
    refuses(write_ply(tmp_path / "m.ply", corners=CORNERS + np.inf), "not finite")


def test_a_long_mesh_of_mixed_faces_is_that_of_open3d(tmp_path):
    import open3d

    random = np.random.default_rng(0)
    faces = [random.permutation(4)[: random.integers(3, 5)].tolist() for _ in range(3000)]
    path = write_ply(tmp_path / "m.ply", faces)
    mesh = read_mesh(path)
    assert np.array_equal(mesh.points, open3d.io.read_triangle_mesh(str(path)).vertices)
    fans = [[face[0], *face[i : i + 2]] for face in faces for i in range(1, len(face) - 1)]
    assert mesh.triangles.tolist() == fans


def test_the_faces_of_an_obj(tmp_path):
    path = tmp_path / "m.obj"
    corners = "v 0 0 0\nv 1 0 0 1 1 1\n# côté\nv 0 1 0\nv 0 0 1\n"
    path.write_text(corners + "f 1/1/1 2//1 3 4\nf -4 -3 -1\n", "latin-1")
    mesh = read_mesh(path)
    assert mesh.points.tolist() == CORNERS.tolist()
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 3]]
    for face in ("f 1 2 x", "f", "f 0 1 2", "f 1 2 9", "f 1 2 -9"):
        path.write_text(f"{corners}f 1 2 3\n{face}\n")
        refuses(path, "cannot be read as OBJ|vertices that it lacks")


def test_an_obj_opens_no_other_file(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.mtl").write_text("newmtl a\n")
    path = tmp_path / "m.obj"
    path.write_text("mtllib outside/secret.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
    canary = Canary(tmp_path / "outside")
    assert len(read_mesh(path).triangles) == 1
    assert not canary.opened()
    canary.close()
