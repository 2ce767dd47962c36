"""From decoded frames to the pixels that a player shows: in RGB, turned and mirrored."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.samples import BadSample

# Tangent of 1 degree, FFmpeg's tolerance for a quarter turn.
_LEANING = 0.01746


def rgb_converter(path: Path) -> Callable[[Any], Tensor]:
    """Return a function from decoded frames of a file to upright uint8 (3, H, W) in RGB.

    ``decoding`` leaves a frame's display matrix in ``frame.opaque``. The function raises BadSample
    if the matrix is neither a quarter turn nor a reflection.
    """
    # FFmpeg's default conversion, as in the released V-LynX code; one context serves all frames.
    convert = import_library("av.video.reformatter").VideoReformatter()

    def draw(frame: Any) -> Tensor:
        rows = convert.reformat(frame, format="rgb24").to_ndarray()  # (H, W, 3)
        if frame.opaque is not None:
            try:
                rows = upright(rows, np.frombuffer(frame.opaque, np.int32))
            except ValueError as error:
                remedy = "Convert it; ffmpeg turns the frames by the matrix"
                raise BadSample(path, str(error), remedy) from error
        return torch.from_numpy(np.ascontiguousarray(rows)).permute(2, 0, 1)

    return draw


def upright(
    rows: NDArray[np.uint8], matrix: Sequence[int] | NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Turn and mirror stored pixels (H, W, 3) as players show them.

    Like FFmpeg, ignore scale, translation, and a singular matrix, which some writers leave zero.

    Args:
        rows: uint8 (H, W, 3).
        matrix: a, b, u, c, d, v, x, y, w of ISO/IEC 14496-12, 6.2.2: a pixel (p, q) is shown at
            (ap + cq + x, bp + dq + y).

    Raises:
        ValueError: the matrix turns by more than 1 degree from a quarter turn, or shears.
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if a * d == b * c:
        return rows
    straight, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) <= _LEANING * straight:
        across_flip, down_flip = a < 0, d < 0
    elif max(abs(a), abs(d)) <= _LEANING * across:
        rows, across_flip, down_flip = rows.swapaxes(0, 1), c < 0, b < 0
    else:
        raise ValueError("is to be shown turned by a fraction of a quarter turn, or sheared")
    return rows[:: -1 if down_flip else 1, :: -1 if across_flip else 1]
