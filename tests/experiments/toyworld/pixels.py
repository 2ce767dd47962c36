"""What independent observers of toy videos read off pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.toyworld.scene import COLOURS

CENTRE = 31.5  # of a frame of 64 pixels


def nearest_colour(pixel: NDArray[Any]) -> str:
    """The name of the colour that, at some brightness, is nearest to an RGB value."""
    lit = {name: np.array(rgb) for name, rgb in COLOURS.items()}
    shades = [(name, s * rgb) for name, rgb in lit.items() for s in np.linspace(0.55, 1, 19)]
    return min(shades, key=lambda shade: float(np.abs(shade[1] - pixel).sum()))[0]


def white(frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (T, H, W) of what blinks; walls and objects are far from white."""
    found: NDArray[np.bool_] = (frames > 230).all(-1)
    return found
