import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from datamodules.media.pose_sampling import farthest_points

seeds = st.integers(0, 2**32 - 1)


def cameras(seed, count):
    """Poses with random centres and axes, those of viewing of any length; float64 (N, 4, 4)."""
    generator = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = np.linalg.qr(generator.normal(size=(count, 3, 3)))[0]
    poses[:, :3, 2] *= generator.uniform(0.2, 5, size=(count, 1))
    poses[:, :3, 3] = generator.normal(size=(count, 3)) * [3, 2, 0.1] + [5, -2, 1]
    return torch.from_numpy(poses)


def reference(poses, count):
    """The rule of the docstring, one pose and one choice at a time."""
    points = []
    centres = [pose[:3, 3] for pose in poses]
    for pose in poses:
        place = [
            (pose[axis, 3] - np.mean([c[axis] for c in centres]))
            / max(np.std([c[axis] for c in centres]), 1e-6)
            for axis in range(3)
        ]
        points.append(np.array([*place, *(pose[:3, 2] / np.linalg.norm(pose[:3, 2]))]))
    middle = sum(points) / len(points)
    chosen = []
    while len(chosen) < count:
        best, best_distance = -1, -1.0
        for index, point in enumerate(points):
            others = [points[other] for other in chosen] or [middle]
            distance = min(np.linalg.norm(point - other) for other in others)
            if index not in chosen and distance > best_distance:
                best, best_distance = index, distance
        chosen.append(best)
    return sorted(chosen)


# Two points are equally far from their mean, except for rounding.
@given(seeds, st.integers(1, 14).filter(lambda total: total != 2), st.integers(1, 14))
@example(41, 4, 3)  # here the standard deviation of a sample would choose others
@example(39, 6, 3)
def test_it_chooses_as_the_rule_says(seed, total, count):
    poses = cameras(seed, total)
    chosen = farthest_points(poses, count)
    assert chosen == reference(poses.numpy(), min(count, total))
    assert len(set(chosen)) == len(chosen) == min(count, total)


@given(seeds, st.integers(1, 12))
def test_a_moved_or_scaled_scene_gives_the_same_frames(seed, count):
    poses = cameras(seed, 12)
    other = poses.clone()
    other[:, :3, 3] = (other[:, :3, 3] + torch.tensor([100.0, -7, 30])) * 4
    assert farthest_points(other, count) == farthest_points(poses, count)


def test_cameras_on_a_line_are_taken_from_its_ends():
    poses = torch.eye(4, dtype=torch.int64).repeat(9, 1, 1)
    poses[:, 0, 3] = torch.arange(9)
    assert farthest_points(poses, 2) == [0, 8]  # both ends are equally far: the lower comes first
    assert farthest_points(poses, 3) == [0, 4, 8]


def test_equal_poses_are_taken_once_each_lowest_first():
    assert farthest_points(torch.eye(4).repeat(6, 1, 1), 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [3, 4, 1000])
def test_no_frame_is_invented(count):
    assert farthest_points(cameras(0, 3), count) == [0, 1, 2]


@pytest.mark.parametrize("value", [-torch.inf, torch.nan, 0])
def test_a_pose_without_a_viewing_axis_is_refused(value):
    poses = cameras(0, 4)
    poses[2, :3, 2] = value
    for count in (2, 9):
        with pytest.raises(ValueError, match=r"poses \[2\] .*not finite.*tracking was lost"):
            farthest_points(poses, count)


def test_less_than_one_frame():
    with pytest.raises(ValueError, match="count=0; choose at least 1"):
        farthest_points(cameras(0, 4), 0)


def test_other_shapes():
    with pytest.raises(ValueError, match=r"must be \(N, 4, 4\), these are \(4, 4\)"):
        farthest_points(torch.eye(4), 1)
