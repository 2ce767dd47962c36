import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.geometry import read_geometry
from datamodules.samples import BadSample

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


def write_pcd(path, points=CORNERS):
    fields = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1"
    size = f"WIDTH {len(points)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}"
    rows = "".join(" ".join(map(str, point)) + "\n" for point in points)
    path.write_text(f"VERSION 0.7\n{fields}\n{size}\nDATA ascii\n{rows}")
    return path


@pytest.mark.parametrize("text", [False, True])
def test_a_ply_mesh(tmp_path, text):
    geometry = read_geometry(write_ply(tmp_path / "m.PLY", text=text))
    assert geometry.points.tolist() == CORNERS.tolist()
    assert geometry.triangles.tolist() == FACES.tolist()


def test_an_obj_mesh(tmp_path):
    path = tmp_path / "m.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert read_geometry(path).triangles.shape == (1, 3)


@pytest.mark.parametrize("text", [False, True])
def test_a_ply_without_faces_is_a_cloud(tmp_path, text):
    geometry = read_geometry(write_ply(tmp_path / "c.ply", faces=None, text=text))
    assert geometry.points.tolist() == CORNERS.tolist()
    assert geometry.triangles.shape == (0, 3)


def test_pcd_and_xyz_clouds(tmp_path):
    missed = np.concatenate([CORNERS, [[np.nan] * 3]])
    assert len(read_geometry(write_pcd(tmp_path / "c.pcd", missed)).points) == 4
    np.savetxt(tmp_path / "c.xyz", CORNERS)
    assert len(read_geometry(tmp_path / "c.xyz").points) == 4


@given(st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_binary_ply_that_is_cut_off_anywhere(tmp_path_factory, part, mesh):
    path = tmp_path_factory.mktemp("ply") / "m.ply"
    data = write_ply(path, faces=FACES if mesh else None).read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(BadSample, match=r"m\.ply: .*(header|shorter).*cut off"):
        read_geometry(path)


@pytest.mark.parametrize("name", ["m.ply", "c.pcd"])
def test_a_text_file_without_its_last_lines(tmp_path, name):
    path = tmp_path / name
    write_ply(path, text=True) if name == "m.ply" else write_pcd(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(BadSample, match="is shorter than its header says"):
        read_geometry(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.ply", "ply\n", "has no .ply header"),
        ("m.ply", "ply\nelement vertex many\nend_header\n", "PLY header that cannot be read"),
        ("m.ply", "ply\nelement\nend_header\n", "PLY header that cannot be read"),
        ("m.ply", "ply\nelement vertex 1\nproperty half x\nend_header\n", "KeyError"),
        ("c.pcd", "DATA ascii\n", "without the number of points"),
        ("m.obj", "nothing", "0 points and 0 triangles, or cannot be decoded"),
        ("m.stl", "solid", "0 points and 0 triangles"),
        ("c.xyz", "", "0 points"),
        ("c.las", "", "no mesh or point cloud by its name.*Convert it to .obj, .pcd, .ply"),
    ],
)
def test_files_of_nothing(tmp_path, capfd, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(BadSample, match=reason):
        read_geometry(tmp_path / name)
    assert "WARNING" not in capfd.readouterr().out


def test_a_missing_file(tmp_path):
    with pytest.raises(BadSample, match="is no file") as caught:
        read_geometry(tmp_path / "m.ply")
    assert caught.value.trouble == "missing"


@pytest.mark.parametrize("faces", [FACES + 1, FACES - 1, FACES + 1_000_000])
def test_triangles_between_vertices_that_are_not_there(tmp_path, faces):
    with pytest.raises(BadSample, match="triangles between vertices that it lacks"):
        read_geometry(write_ply(tmp_path / "m.ply", faces=faces))


def test_a_mesh_of_no_triangles(tmp_path):
    path = tmp_path / "m.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(BadSample, match="0 triangles"):
        read_geometry(path)


def test_a_mesh_that_reaches_infinity(tmp_path):
    corners = CORNERS.copy()
    corners[2, 1] = np.inf
    with pytest.raises(BadSample, match="not finite"):
        read_geometry(write_ply(tmp_path / "m.ply", corners))
