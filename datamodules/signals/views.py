"""Several synchronous cameras as one stream (Ego-Exo4D)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def views(cameras: Sequence[Tensor]) -> Tensor:
    """Interleave the frames of synchronous cameras.

    Args:
        cameras: V streams (T, 3, H, W) of the same timestamps.

    Returns:
        (T·V, 3, H, W): the first frame of each camera in the given order, then the second ones.

    Raises:
        ValueError: there is no camera, or the shapes differ.
    """
    shapes = {tuple(camera.shape) for camera in cameras}
    if len(shapes) != 1:
        raise ValueError(
            f"cameras of shapes {sorted(shapes)} do not make a stream; read the same timestamps of "
            "each, in one size"
        )
    return torch.stack(list(cameras), 1).flatten(0, 1)
