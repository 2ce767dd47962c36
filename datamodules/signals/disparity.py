"""Depth drawn as disparity: near is bright or red, far is dark (paper section 4).

Disparity 1/d uses most colours for near surfaces, where depth cameras are most accurate.
"""

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from datamodules.signals.turbo import turbo_table

Colours = Literal["turbo", "gray"]


def disparity(
    depth_mm: Tensor,
    near_mm: float = 200,
    far_mm: float = 10_000,
    colours: Colours = "turbo",
) -> Tensor:
    """Colour depth by its disparity, scaled linearly from 0 at ``far_mm`` to 1 at ``near_mm``.

    Pixels without depth (zero, negative or NaN) count as far; depth outside the range is clipped.
    The default range is the released one for 7B models.

    Args:
        depth_mm: (..., H, W) depth along the optical axis in mm, any real type.
        near_mm: distance in mm of the last colour.
        far_mm: distance in mm of the first colour.
        colours: ``turbo`` is the published table; ``gray`` the same disparity in three equal
            channels (the released ``gray`` is linear in depth instead).

    Returns:
        uint8 (..., 3, H, W).

    Raises:
        ValueError: the range is not 0 < near < far.
    """
    check_range(near_mm, far_mm)
    depth = depth_mm.double()
    depth = torch.where(depth > 0, depth, far_mm).clamp(near_mm, far_mm)
    share = (1 / depth - 1 / far_mm) / (1 / near_mm - 1 / far_mm)  # (..., H, W) in [0, 1]
    index = (255 * share).round().long()
    return _table(colours).to(index.device)[index].movedim(-1, -3).contiguous()


def check_range(near_mm: float, far_mm: float) -> None:
    """Raise ValueError unless 0 < near < far."""
    if not 0 < near_mm < far_mm:
        raise ValueError(
            f"near_mm={near_mm} and far_mm={far_mm} are not a depth range; give millimetres with "
            "0 < near_mm < far_mm, for example 200 and 10000"
        )


@cache
def _table(colours: Colours) -> Tensor:
    if colours == "turbo":
        return turbo_table()
    return torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 3)
