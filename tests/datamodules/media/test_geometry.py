import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.geometry import read_mesh
from datamodules.samples import BadSample
from tests.robustness.watched import Canary

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
FACES = np.array([[0, 1, 2], [0, 1, 3], [1, 2, 3]], np.int32)


def write_ply(path, corners=CORNERS, faces=FACES, text=False):
    header = ["ply", f"format {'ascii' if text else 'binary_little_endian'} 1.0", "comment A b"]
    header += [f"element vertex {len(corners)}", *(f"property float {axis}" for axis in "xyz")]
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    data = "\n".join([*header, "end_header\n"]).encode()
    for corner in corners:
        data += (" ".join(map(str, corner)) + "\n").encode() if text else corner.tobytes()
    for face in faces if faces is not None else []:
        line = " ".join(map(str, [len(face), *face])) + "\n"
        data += line.encode() if text else struct.pack("<B3i", 3, *face)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("text", [False, True])
def test_a_ply_mesh(tmp_path, text):
    mesh = read_mesh(write_ply(tmp_path / "m.PLY", text=text))
    assert mesh.points.tolist() == CORNERS.tolist()
    assert mesh.triangles.tolist() == FACES.tolist()


def test_an_obj_mesh(tmp_path):
    path = tmp_path / "m.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert read_mesh(path).triangles.shape == (1, 3)


@pytest.mark.parametrize("faces", [None, FACES[:0]])
@pytest.mark.parametrize("text", [False, True])
def test_a_ply_without_faces(tmp_path, text, faces):
    path = write_ply(tmp_path / "m.ply", faces=faces, text=text)
    with pytest.raises(BadSample, match=r"4 points and 0 triangles, but a mesh is needed.*cloud"):
        read_mesh(path)


@given(st.floats(0, 1, exclude_max=True))
def test_a_binary_ply_that_is_cut_off_anywhere(tmp_path_factory, part):
    path = tmp_path_factory.mktemp("ply") / "m.ply"
    data = write_ply(path).read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(BadSample, match=r"m\.ply: .*(header|shorter).*cut off"):
        read_mesh(path)


def test_a_text_file_without_its_last_line(tmp_path):
    path = write_ply(tmp_path / "m.ply", text=True)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(BadSample, match="is shorter than its header says"):
        read_mesh(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.ply", "ply\n", "has no .ply header"),
        ("m.ply", "ply\nelement vertex many\nend_header\n", "cannot be read as PLY"),
        ("m.ply", "ply\nelement\nend_header\n", "cannot be read as PLY"),
        ("m.ply", "ply\nelement vertex 1\nproperty half x\nend_header\n", "KeyError"),
        ("m.obj", "nothing", "0 points and 0 triangles"),
        ("m.stl", "solid", "0 points and 0 triangles"),
        ("c.xyz", "", "is not a mesh by its name. Convert it to .obj, .ply, .stl"),
    ],
)
def test_files_of_nothing(tmp_path, capfd, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadSample, match=reason):
        read_mesh(tmp_path / name)
    assert "WARNING" not in capfd.readouterr().out


def test_a_missing_file(tmp_path):
    with pytest.raises(BadSample, match="is not a file") as caught:
        read_mesh(tmp_path / "m.ply")
    assert caught.value.trouble == "missing"


@pytest.mark.parametrize("faces", [FACES + 1, FACES - 1, FACES + 1_000_000])
def test_triangles_between_vertices_that_are_not_there(tmp_path, faces):
    with pytest.raises(BadSample, match="triangles between vertices that it lacks"):
        read_mesh(write_ply(tmp_path / "m.ply", faces=faces))


def test_a_mesh_of_no_triangles(tmp_path):
    path = tmp_path / "m.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(BadSample, match="0 triangles"):
        read_mesh(path)


def test_a_mesh_that_reaches_infinity(tmp_path):
    corners = CORNERS.copy()
    corners[2, 1] = np.inf
    with pytest.raises(BadSample, match="not finite"):
        read_mesh(write_ply(tmp_path / "m.ply", corners))


def write_faces(path, *faces, form="binary_little_endian", head=()):
    """A PLY mesh with faces of any length, among the four corners."""
    lines = ["ply", f"format {form} 1.0", *head, "element vertex 4"]
    lines += [f"property double {axis}" for axis in "xyz"]
    lines += [f"element face {len(faces)}", "property uchar red"]
    lines += ["property list uint8 int32 vertex_index", "end_header", ""]
    order = ">" if "big" in form else "<"
    data = CORNERS.astype(f"{order}f8").tobytes()
    for face in faces:
        data += struct.pack(f"{order}BB{len(face)}i", 9, len(face), *face)
    if form == "ascii":
        rows = [*CORNERS.tolist(), *([9, len(face), *face] for face in faces)]
        data = "\n".join(" ".join(map(str, row)) for row in rows).encode()
    path.write_bytes("\n".join(lines).encode() + data)
    return path


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
def test_polygons_become_fans(tmp_path, form):
    faces = [(0, 1, 2), (3, 2, 1, 0), (0, 1, 3), (1, 2, 3)]
    mesh = read_mesh(write_faces(tmp_path / "m.ply", *faces, form=form))
    assert mesh.points.tolist() == CORNERS.tolist()
    expected = [[0, 1, 2], [3, 2, 1], [3, 1, 0], [0, 1, 3], [1, 2, 3]]
    assert mesh.triangles.tolist() == expected


@pytest.mark.parametrize("form", ["binary_little_endian", "ascii"])
@pytest.mark.parametrize("face", [(), (0,), (0, 1), (0, 1, 2, 9), (0, 1, 2, -1), (0, 1, 2**31 - 1)])
def test_faces_that_are_none(tmp_path, form, face):
    """open3d crashes on most of them."""
    with pytest.raises(BadSample, match=r"face of|vertices that it lacks"):
        read_mesh(write_faces(tmp_path / "m.ply", (0, 1, 2), face, form=form))


@pytest.mark.parametrize("length", ["-1", "2.5", "nan", "inf", "1e300"])
def test_lists_of_no_length(tmp_path, length):
    path = write_ply(tmp_path / "m.ply", text=True)
    path.write_text(path.read_text().replace("3 0 1 2", f"{length} 0 1 2"))
    with pytest.raises(BadSample, match="cannot be read as PLY"):
        read_mesh(path)


def test_a_long_mesh_of_mixed_faces_is_that_of_open3d(tmp_path):
    import open3d

    random = np.random.default_rng(0)
    faces = [random.permutation(4)[: random.integers(3, 5)].tolist() for _ in range(3000)]
    path = write_faces(tmp_path / "m.ply", *(faces + [(0, 1, 2)] * 3000))
    expected = np.asarray(open3d.io.read_triangle_mesh(str(path)).vertices)
    mesh = read_mesh(path)
    assert mesh.points.tolist() == expected.tolist()
    fans = [[face[0], *face[i : i + 2]] for face in faces for i in range(1, len(face) - 1)]
    assert mesh.triangles.tolist() == fans + [[0, 1, 2]] * 3000


def test_the_faces_of_an_obj(tmp_path):
    path = tmp_path / "m.obj"
    corners = "v 0 0 0\nv 1 0 0 1 1 1\n# côté\nv 0 1 0\nv 0 0 1\n"
    path.write_text(corners + "f 1/1/1 2//1 3 4\nf -4 -3 -1\n", "latin-1")
    mesh = read_mesh(path)
    assert mesh.points.tolist() == CORNERS.tolist()
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 3]]
    for face in ("f 1 2 x", "f", "f 0 1 2", "f 1 2 9", "f 1 2 -9"):
        path.write_text(f"{corners}f 1 2 3\n{face}\n")
        with pytest.raises(BadSample, match=r"cannot be read as OBJ|vertices that it lacks"):
            read_mesh(path)


def test_an_obj_opens_no_other_file(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.mtl").write_text("newmtl a\n")
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "m.obj"
    path.write_text("mtllib ../outside/secret.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl a\nf 1 2 3\n")
    canary = Canary(tmp_path / "outside")
    assert len(read_mesh(path).triangles) == 1
    assert not canary.opened()
    canary.close()
