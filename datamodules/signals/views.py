"""Several cameras on one moment as one stream (Ego-Exo4D)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def views(cameras: Sequence[Tensor]) -> Tensor:
    """Put the frames of synchronous cameras into one stream, moment by moment.

    Args:
        cameras: V streams (T, 3, H, W) of the same moments.

    Returns:
        (T·V, 3, H, W): all cameras' first frames, in the order given, then all second ones.

    Raises:
        ValueError: there is no camera, or the shapes differ.
    """
    shapes = {tuple(camera.shape) for camera in cameras}
    if len(shapes) != 1:
        raise ValueError(
            f"cameras of shapes {sorted(shapes)} make no stream; read the same moments of each, in "
            "one size"
        )
    return torch.stack(list(cameras), 1).flatten(0, 1)
