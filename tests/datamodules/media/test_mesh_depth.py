import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.media.geometry import Mesh
from datamodules.media.mesh_depth import depth_renderer, prepare_depth_from_mesh
from datamodules.media.scannet import open_scene
from datamodules.samples import BadSample

SIZE = (24, 32)
CAMERA = torch.tensor([[30.0, 0, 15.5], [0, 30, 11.5], [0, 0, 1]])


def wall(distance=2.0, tilt=0.0, half=10.0):
    """A square across the z axis, ``distance`` m from the origin, z growing with x by ``tilt``."""
    corners = torch.tensor(
        [[x, y, distance + tilt * x] for x in (-half, half) for y in (-half, half)]
    )
    return Mesh(corners.double(), torch.tensor([[0, 1, 2], [2, 1, 3]]))


def write_obj(path, mesh):
    lines = ["v {} {} {}".format(*point) for point in mesh.points.tolist()]
    lines += ["f {} {} {}".format(*(corner + 1)) for corner in mesh.triangles.numpy()]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_depth_of_a_tilted_wall_is_that_of_the_plane():
    tilt = 0.5
    depth = depth_renderer(wall(2.0, tilt), CAMERA, SIZE)(torch.eye(4))
    x = (torch.arange(SIZE[1]) - 15.5) / 30
    expected = 1000 * 2 / (1 - tilt * x)  # z = 2 + tilt x z
    assert depth.shape == SIZE and depth.dtype == torch.float32
    torch.testing.assert_close(depth, expected.expand(SIZE), atol=0.01, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_pose_takes_the_camera_into_the_world(offset):
    """Turned by 90° about y, camera z is world x; far from the origin as near it."""
    pose = torch.tensor(
        [[0.0, 0, 1, 1 + offset], [0, 1, 0, offset], [-1, 0, 0, 0], [0, 0, 0, 1]],
        dtype=torch.float64,
    )
    turned = wall(2.71, 0.5)
    turn = turned.points @ pose[:3, :3].T + torch.tensor([offset, offset, 0])
    depth = depth_renderer(Mesh(turn, turned.triangles), CAMERA, SIZE)(pose)
    x = (torch.arange(SIZE[1]) - 15.5) / 30
    torch.testing.assert_close(depth, (1710 / (1 - 0.5 * x)).expand(SIZE), atol=0.1, rtol=0)


def test_what_is_behind_or_beside_is_not_seen():
    behind = depth_renderer(wall(-2.0), CAMERA, SIZE)(torch.eye(4))
    assert not behind.any()
    part = depth_renderer(wall(2.0, half=0.49), CAMERA, SIZE)(torch.eye(4))
    inside = (torch.arange(SIZE[1]) - 15.5).abs() < 7.5
    assert torch.equal((part > 0)[12], inside) and not part[0].any()


@pytest.fixture
def scene(tmp_path):
    """A scene without depth, before a wall at 2 m."""
    folder = tmp_path / "source" / "flat"
    for part in ("color", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    for number in (0, 5, 10):
        colour = np.full((*SIZE, 3), number, np.uint8)
        Image.fromarray(colour).save(folder / "color" / f"{number}.jpg")
        pose = np.eye(4)
        pose[2, 3] = number / 10
        np.savetxt(folder / "pose" / f"{number}.txt", pose)
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", CAMERA)
    return folder


@pytest.fixture
def mesh(tmp_path):
    return write_obj(tmp_path / "wall.obj", wall())


def test_a_scene_is_completed(scene, mesh, tmp_path, capsys):
    folder = prepare_depth_from_mesh(mesh, scene, tmp_path / "out")
    assert folder == tmp_path / "out" / "scans" / "flat"
    done = open_scene(folder)
    assert done.depth_size == done.colour_size == SIZE
    assert torch.equal(done.intrinsics, CAMERA.double())
    for frame, mm in zip(done.frames, (2000, 1500, 1000), strict=True):
        assert torch.equal(done.read_depth(frame), torch.full(SIZE, float(mm)))
        assert frame.colour.read_bytes() == (scene / "color" / frame.colour.name).read_bytes()
    assert "covers 100%" in " ".join(capsys.readouterr().out.split())
    prepare_depth_from_mesh(mesh, scene, tmp_path / "out")
    assert "already complete" in " ".join(capsys.readouterr().out.split())


def test_narrower_depth_has_its_own_camera(scene, mesh, tmp_path):
    write_obj(mesh, wall(2.0, 0.5))
    done = open_scene(prepare_depth_from_mesh(mesh, scene, tmp_path / "out", width=16))
    assert done.depth_size == (12, 16)
    assert done.intrinsics[:2].tolist() == [[15, 0, 7.5], [0, 15, 5.5]]
    expected = 2000 / (1 - 0.5 * (torch.arange(16) - 7.5) / 15)
    assert (done.read_depth(done.frames[0]) - expected).abs().max() <= 0.51


def test_frames_without_a_pose_are_left_out_and_listed(scene, mesh, tmp_path, capsys):
    np.savetxt(scene / "pose" / "5.txt", np.full((4, 4), -np.inf))
    (scene / "pose" / "10.txt").unlink()
    folder = prepare_depth_from_mesh(mesh, scene, tmp_path / "out")
    assert [frame.id for frame in open_scene(folder).frames] == [0]
    said = " ".join(capsys.readouterr().out.split())
    assert "Frame 5 is left out: pose is not finite" in said
    assert "Frame 10 is left out" in said


def refuses(mesh, scene, out, reason, path, **options):
    with pytest.raises(BadSample, match=reason) as caught:
        prepare_depth_from_mesh(mesh, scene, out, **options)
    assert caught.value.path == path and caught.value.remedy
    assert not list(out.rglob("*.*"))


def look_away(scene, *frames):
    for frame in frames:
        np.savetxt(scene / "pose" / f"{frame}.txt", np.diag([-1.0, 1, -1, 1]))


def test_frames_that_look_past_the_mesh(scene, mesh, tmp_path, capsys):
    look_away(scene, 5)
    done = open_scene(prepare_depth_from_mesh(mesh, scene, tmp_path / "some"))
    assert [frame.id for frame in done.frames] == [0, 10] and not done.dropped
    assert "Frame 5 is left out: no depth in any pixel" in capsys.readouterr().out
    look_away(scene, 10)
    refuses(mesh, scene, tmp_path / "out", "in no pixel of 2 of 3 frames: 5, 10", mesh)


def test_a_mesh_in_mm(scene, mesh, tmp_path):
    write_obj(mesh, wall(2000, half=10_000))
    refuses(mesh, scene, tmp_path / "out", "gives frame 0 depth up to 2000 m", mesh)


@pytest.mark.parametrize(
    ("part", "reason"),
    [("pose", "no frame with a usable pose"), ("color", "no frames in color/")],
)
def test_a_scene_without_poses_or_colour(scene, mesh, tmp_path, part, reason):
    shutil.rmtree(scene / part)
    refuses(mesh, scene, tmp_path / "out", reason, scene)


def test_colour_of_two_sizes(scene, mesh, tmp_path):
    path = scene / "color" / "5.jpg"
    Image.open(path).resize((16, 12)).save(path)
    refuses(mesh, scene, tmp_path / "out", "not of the size of 0.jpg", path)


def test_a_name_that_is_not_a_frame_number(scene, mesh, tmp_path):
    for part, suffix in (("color", "jpg"), ("pose", "txt")):
        (scene / part / f"0.{suffix}").rename(scene / part / f"first.{suffix}")
    refuses(mesh, scene, tmp_path / "out", "first.* is not named by a unique frame number", scene)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a 3x3 or 4x4"),
        ("a b", "is not a matrix of numbers"),
        ("585 0 320\n0 585 240\n0 0 1", "does not belong to a 32x24"),
        ("0 0 16\n0 0 12\n0 0 1", "with positive fx and fy"),
        ("nan 0 16\n0 9 12\n0 0 1", "is not a 3x3 or 4x4"),
    ],
)
def test_the_camera_of_another_image(scene, mesh, tmp_path, text, reason):
    path = tmp_path / "camera.txt"
    path.write_text(text)
    refuses(mesh, scene, tmp_path / "out", reason, path, intrinsics=path)


def test_a_missing_camera(scene, mesh, tmp_path):
    path = scene / "intrinsic" / "intrinsic_color.txt"
    path.unlink()
    refuses(mesh, scene, tmp_path / "out", "is not a matrix of numbers", path)


def test_frames_one_pixel_wide(scene, mesh, tmp_path):
    with pytest.raises(ValueError, match="width=1, but"):
        prepare_depth_from_mesh(mesh, scene, tmp_path / "out", width=1)
