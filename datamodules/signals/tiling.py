"""High frame rate drawn as tiled frames: four consecutive frames in one (paper section 4).

Every frame is resized once, from its own size to a quarter of the tiled frame. The released code
first resizes to the full size and then halves without antialiasing.
"""

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize


def tiling(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Tile each run of four frames 2 × 2 in reading order.

    The aspect ratio of a frame is ignored, as for all other frames.

    Args:
        frames: uint8 (4·T, 3, h, w), in order of time.
        size: (H, W) of the tiled frames, both even.

    Returns:
        uint8 (T, 3, H, W): first frame top left, second top right, third bottom left, fourth
        bottom right.

    Raises:
        ValueError: the number of frames is not a multiple of four, or the size is odd.
    """
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"size={size} cannot be halved; give an even height and width")
    if len(frames) == 0 or len(frames) % 4:
        raise ValueError(f"{len(frames)} frames are not runs of four; sample four per tiled frame")
    half = [height // 2, width // 2]
    small = resize(frames, half, InterpolationMode.BICUBIC, antialias=True)  # (4T, 3, H/2, W/2)
    rows = small.unflatten(0, (-1, 2, 2)).unbind(2)  # left and right, each (T, 2, 3, H/2, W/2)
    halves = torch.cat(rows, -1).unbind(1)  # top and bottom, each (T, 3, H/2, W)
    return torch.cat(halves, -2)
