"""High frame rate as pictures: four consecutive frames side by side in one (paper section 4).

Every frame is reduced once, from its own size to a quarter of the picture. The released code first
resizes all frames to the full picture and then halves them without antialiasing.
"""

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize


def tiling(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Tile each run of four frames 2 × 2 in reading order.

    The aspect ratio of a frame is ignored, as everywhere on the visual road.

    Args:
        frames: (4·T, 3, h, w) uint8, in the order of time.
        size: (H, W) of the pictures, both even.

    Returns:
        uint8 (T, 3, H, W): first frame top left, second top right, third bottom left, fourth
        bottom right.

    Raises:
        ValueError: the number of frames is no multiple of four, or the size is odd.
    """
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"size={size} cannot be halved; give an even height and width")
    if len(frames) == 0 or len(frames) % 4:
        raise ValueError(
            f"{len(frames)} frames are no runs of four; sample four frames for every picture"
        )
    half = [height // 2, width // 2]
    small = resize(frames, half, InterpolationMode.BICUBIC, antialias=True)  # (4T, 3, H/2, W/2)
    rows = small.unflatten(0, (-1, 2, 2)).unbind(2)  # left and right, each (T, 2, 3, H/2, W/2)
    pictures = torch.cat(rows, -1).unbind(1)  # top and bottom, each (T, 3, H/2, W)
    return torch.cat(pictures, -2)
