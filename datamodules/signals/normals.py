"""Depth drawn as surface normals, which the released code uses beside disparity.

Camera axes: x right, y down, z forward. Normals point away from the camera (+z), as released.
"""

import torch
from torch import Tensor

from datamodules.signals.disparity import check_range


def normals(
    depth_mm: Tensor,
    intrinsics: Tensor,
    near_mm: float = 200,
    far_mm: float = 10_000,
    pose: Tensor | None = None,
) -> Tensor:
    """Colour depth by the unit normal of its surface: round(255 (n / 2 + 1/2)) for x, y, z.

    Points are back-projected and tangents are forward differences; the last row and column repeat
    their neighbours. Depth is clipped to the range, so everything beyond it becomes a wall. Pixels
    without depth, or whose right or lower neighbour has none, are grey (128, 128, 128).

    Args:
        depth_mm: (..., H, W) depth along the optical axis in mm; zero, negative or NaN is no depth.
        intrinsics: (3, 3) or (4, 4) of the depth image, in its pixels. For a resized image,
            multiply fx, cx by the width ratio and fy, cy by the height ratio.
        near_mm: nearest depth in mm.
        far_mm: farthest depth in mm.
        pose: (..., 4, 4) camera to world; turns the normals into the world frame. Without it they
            stay in the camera frame.

    Returns:
        uint8 (..., 3, H, W).

    Raises:
        ValueError: a wrong shape or range, a pose that is not finite, or a principal point outside
            the image, which happens with the intrinsics of another image or another size.
    """
    check_range(near_mm, far_mm)
    fx, fy, cx, cy = _camera(intrinsics, depth_mm.shape[-2:])
    depth = depth_mm.float()
    valid = depth > 0
    depth = torch.where(valid, depth.clamp(near_mm, far_mm), torch.nan)
    x = (torch.arange(depth.shape[-1] - 1, device=depth.device) - cx) / fx  # (W-1,)
    y = (torch.arange(depth.shape[-2] - 1, device=depth.device)[:, None] - cy) / fy  # (H-1, 1)
    # The cross product of the tangents to the right and down, for points z (x, y, 1), without the
    # common factor z / (fx fy). Subtracting depths first keeps float32 exact enough.
    here, right, down = depth[..., :-1, :-1], depth[..., :-1, 1:], depth[..., 1:, :-1]
    normal_x = fx * down * (here - right)
    normal_y = fy * right * (here - down)
    normal_z = right * down - x * normal_x - y * normal_y
    normal = torch.stack([normal_x, normal_y, normal_z], -3)  # (..., 3, H-1, W-1)
    normal *= torch.where(normal_z < 0, -1, 1).unsqueeze(-3)
    if pose is not None:
        normal = (_rotation(pose).to(normal) @ normal.flatten(-2)).view_as(normal)
    normal /= torch.linalg.vector_norm(normal, dim=-3, keepdim=True)
    normal = torch.cat([normal, normal[..., -1:, :]], -2)
    normal = torch.cat([normal, normal[..., -1:]], -1)
    known = valid & normal[..., 2, :, :].isfinite()
    normal = torch.where(known.unsqueeze(-3), normal, 0)  # (..., 3, H, W)
    return (255 * (normal / 2 + 0.5)).round().to(torch.uint8)  # 127.5 rounds to 128


def _camera(intrinsics: Tensor, size: torch.Size) -> tuple[float, float, float, float]:
    height, width = size
    if intrinsics.shape not in {(3, 3), (4, 4)}:
        raise ValueError(f"intrinsics must be 3x3 or 4x4, these are {tuple(intrinsics.shape)}")
    if height < 2 or width < 2:
        raise ValueError(f"a {width}x{height} depth image has no normals; it needs 2x2 pixels")
    fx, fy = float(intrinsics[0, 0]), float(intrinsics[1, 1])
    cx, cy = float(intrinsics[0, 2]), float(intrinsics[1, 2])
    # The principal point is near the middle of the image unless the size is wrong.
    centred = abs(cx / width - 0.5) < 0.25 and abs(cy / height - 0.5) < 0.25
    if not (fx > 0 and fy > 0 and centred):
        raise ValueError(
            f"intrinsics fx={fx:g} fy={fy:g} cx={cx:g} cy={cy:g} do not belong to a "
            f"{width}x{height} depth image: give those of the depth camera (not the colour "
            "camera), and if the image was resized, multiply them by the same ratios"
        )
    return fx, fy, cx, cy


def _rotation(pose: Tensor) -> Tensor:
    if pose.shape[-2:] != (4, 4) or not pose.isfinite().all():
        raise ValueError(
            f"pose of shape {tuple(pose.shape)} is not a finite 4x4 camera-to-world matrix; leave "
            "out frames without tracking, or pass pose=None for normals in the camera frame"
        )
    return pose[..., :3, :3]
