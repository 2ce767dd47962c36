"""Choosing the frames of a scene whose cameras differ most, as the released code does.

This is farthest point sampling over the positions and viewing axes of the cameras.
"""

import torch
from torch import Tensor

_SMALLEST_STD = 1e-6  # of the released code: ignores an axis along which no camera moves


def farthest_points(poses: Tensor, count: int) -> list[int]:
    """Choose ``count`` frames whose camera poses are far apart.

    A pose is a point in six dimensions: the camera's centre, standardised per axis over the scene,
    and its viewing axis, of unit length. The first choice is the point farthest from their mean,
    each further one the point farthest from all earlier ones; ties go to the lowest index. Moving
    or scaling the scene does not change the choice (unless cameras move by less than 1e-6 along an
    axis). Rotating the world may, since centres are standardised along its axes.

    Args:
        poses: (N, 4, 4) camera to world.
        count: frames wanted.

    Returns:
        Distinct indices in ascending order; all N if ``count`` is N or more.

    Raises:
        ValueError: ``count`` is below 1, or a pose is not finite or has no viewing axis.
    """
    if count < 1:
        raise ValueError(f"count={count}; choose at least 1 frame")
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise ValueError(f"poses must be (N, 4, 4), these are {tuple(poses.shape)}")
    poses = poses.double()
    usable = poses.isfinite().all(-1).all(-1) & poses[:, :3, 2].any(-1)
    if not usable.all():
        bad = (~usable).nonzero().flatten().tolist()
        raise ValueError(
            f"poses {bad[:8]} are not cameras (not finite, or without a viewing axis); leave out "
            "frames whose tracking was lost"
        )
    if count >= len(poses):
        return list(range(len(poses)))
    points = _features(poses)
    chosen = [int(_distance(points, points.mean(0)).argmax())]
    nearest = torch.full((len(points),), torch.inf, dtype=points.dtype)  # to what is chosen
    while len(chosen) < count:
        nearest = torch.minimum(nearest, _distance(points, points[chosen[-1]]))
        nearest[chosen[-1]] = -1  # below the 0 of a frame with the same pose
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def _features(poses: Tensor) -> Tensor:
    centres, axes = poses[:, :3, 3], poses[:, :3, 2]
    spread = centres.std(0, correction=0).clamp(min=_SMALLEST_STD)
    centres = (centres - centres.mean(0)) / spread
    return torch.cat([centres, axes / axes.norm(dim=-1, keepdim=True)], -1)  # (N, 6)


def _distance(points: Tensor, point: Tensor) -> Tensor:
    """Squared, (N,)."""
    return (points - point).square().sum(-1)
