import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datamodules.signals import normals

HEIGHT, WIDTH = 6, 7
CAMERA = torch.tensor([[8.0, 0, 3.2], [0, 9.0, 2.4], [0, 0, 1]], dtype=torch.float64)
depths = arrays(np.float64, (HEIGHT, WIDTH), elements=st.sampled_from([0, -1, 150, 400, 900, 2e4]))


def reference(depth, near, far, rotation):
    """Independent version, pixel by pixel; (H, W, 3) before rounding, 127.5 where unknown."""
    (fx, _, cx), (_, fy, cy), _ = CAMERA.tolist()

    def point(v, u):
        z = min(max(depth[v, u], near), far) if depth[v, u] > 0 else math.nan
        return np.array([(u - cx) * z / fx, (v - cy) * z / fy, z])

    frame = np.full((HEIGHT, WIDTH, 3), 127.5)
    for v in range(HEIGHT):
        for u in range(WIDTH):
            row, column = min(v, HEIGHT - 2), min(u, WIDTH - 2)
            here = point(row, column)
            a, b = point(row, column + 1) - here, point(row + 1, column) - here
            n = np.array(
                [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
            )
            if np.isnan(n).any() or depth[v, u] <= 0:
                continue
            n = rotation @ (n if n[2] >= 0 else -n)
            frame[v, u] = 255 * (n / np.sqrt((n**2).sum()) + 1) / 2
    return frame


def turn(angle):
    c, s = math.cos(angle), math.sin(angle)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ torch.tensor(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    return pose


@settings(max_examples=40)
@given(depths, st.floats(-3, 3))
def test_equals_the_reference_in_both_frames(depth, angle):
    pose = turn(angle)
    for given_pose, rotation in [(None, np.eye(3)), (pose, pose[:3, :3].numpy())]:
        frame = normals(torch.from_numpy(depth), CAMERA, 200, 10_000, given_pose)
        assert frame.shape == (3, HEIGHT, WIDTH) and frame.dtype == torch.uint8
        exact = reference(depth, 200, 10_000, rotation)
        assert np.abs(frame.movedim(0, -1).numpy() - exact).max() <= 0.5 + 1e-3


@settings(max_examples=40)
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_a_plane_has_its_normal_everywhere(slope_x, slope_y):
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    ray_x, ray_y = (u - 3.2) / 8, (v - 2.4) / 9
    depth = 1000 / (1 + slope_x * ray_x + slope_y * ray_y)  # the plane x sx + y sy + z = 1000
    normal = torch.tensor([slope_x, slope_y, 1.0])
    expected = 255 * (normal / normal.norm() + 1) / 2
    frame = normals(depth, CAMERA)
    assert (frame - expected[:, None, None]).abs().max() <= 0.51


def test_a_wall_faces_away_and_no_measurement_is_grey():
    depth = torch.full((2, 3, 4, 5), 900.0)
    depth[1, 2, 3, 4] = 0
    frame = normals(depth, CAMERA)
    assert frame[0, 0, :, 0, 0].tolist() == [128, 128, 255]
    assert frame[1, 2, :, 3, 4].tolist() == [128, 128, 128]
    assert frame.shape == (2, 3, 3, 4, 5)


def test_beyond_the_range_is_a_wall():
    depth = torch.rand(5, 6) * 1000 + 20_000
    assert (normals(depth, CAMERA)[2] == 255).all()


def test_a_pose_for_every_frame_and_4x4_intrinsics():
    depth = torch.rand(2, 5, 6) * 1000 + 500
    poses = torch.stack([turn(0.3), turn(2.0)])
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3] = CAMERA
    both = normals(depth, camera, pose=poses)
    for i in range(2):
        assert torch.equal(both[i], normals(depth[i], CAMERA, pose=poses[i]))


@pytest.mark.parametrize(("cx", "cy"), [(647.7, 483.7), (647.7, 240), (320, 483.7), (-1, 240)])
def test_intrinsics_of_another_image_are_refused(cx, cy):
    camera = torch.tensor([[1170.0, 0, cx], [0, 1170.0, cy], [0, 0, 1]])
    message = rf"cx={cx} cy={cy} .* 640x480 .*those of the depth camera"
    with pytest.raises(ValueError, match=message):
        normals(torch.ones(480, 640), camera)


@pytest.mark.parametrize(
    ("depth", "camera", "pose", "message"),
    [
        (torch.ones(4, 5), torch.eye(2), None, "3x3 or 4x4"),
        (torch.ones(1, 5), CAMERA, None, "needs 2x2 pixels"),
        (torch.ones(4, 5), CAMERA, torch.full((4, 4), -math.inf), "finite 4x4 camera-to-world"),
        (torch.ones(4, 5), CAMERA, torch.eye(3), "finite 4x4 camera-to-world"),
    ],
)
def test_wrong_input_is_refused(depth, camera, pose, message):
    with pytest.raises(ValueError, match=message):
        normals(depth, camera, pose=pose)
