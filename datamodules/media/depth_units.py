"""The unit of depth images, and whether it is probably another one.

A 16-bit image does not state its unit. In a wrong one, rooms have the size of a box or of a street,
and frames drawn from them are blank.
"""

from collections.abc import Mapping
from math import isfinite, log
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlynx_pl.io.errors import UserError

DepthScale = float | Literal["sun"]

_OVERFLOW: Final = 65535  # the largest value: farther, or 7-Scenes' mark of no measurement
_ROTATION: Final = 3  # bits to the left, undone by depthRead.m of SUN3D's toolbox


class _Unit(NamedTuple):
    name: str
    step: int = 1  # all values converted from whole mm are multiples of it


# Units per metre: 5000 and 4000 from Open3D's issue 2814, 10,000 from deep-video-mvs's issue 8.
# 256 (VOID, KITTI) is missing, since a room in that unit looks like a desk in mm.
_UNITS: Final[Mapping[DepthScale, _Unit]] = {
    5000: _Unit("TUM RGB-D", 5),
    "sun": _Unit("SUN RGB-D, SUN3D", 1 << _ROTATION),
    4000: _Unit("RealSense L515", 4),
    10_000: _Unit("0.1 mm", 10),
    1000: _Unit("mm"),
    100: _Unit("cm"),
    1: _Unit("m"),
}
# Few depth cameras measure below 0.3 m or above 10 m, and most of few rooms is beyond 7 m.
_NEAREST_MM, _FAR_MM, _FARTHEST_MM = 300.0, 7000.0, 10_000.0
_TYPICAL_MM = 2500.0  # median of a room, to choose among several possible units
_TOLD_MM, _TELLING, _DIFFERENT = 3000.0, frozenset({5, 8}), 500  # see :func:`doubt`
_LARGEST_STEP = 100
_FEW, _HALF, _MOST = 0.05, 0.5, 0.9  # shares of the measured pixels


def _shown(scale: DepthScale) -> str:
    return scale if isinstance(scale, str) else f"{scale:g}"


def check_scale(scale: DepthScale) -> None:
    """Raise UserError unless the scale is a number above 0, or ``sun``."""
    if scale != "sun" and not (isfinite(scale) and scale > 0):
        raise UserError(
            f"depth_scale={_shown(scale)} is not a scale; give the units per metre, such as 1000 "
            "for mm or 5000 for TUM RGB-D, or sun for the rotated bits of SUN RGB-D"
        )


def parse_scale(text: str) -> DepthScale:
    """Parse a scale from the command line; raises UserError."""
    try:
        scale: DepthScale = "sun" if text == "sun" else float(text)
    except ValueError as error:
        raise UserError(f"depth_scale={text!r} is neither a number nor sun") from error
    check_scale(scale)
    return scale


def in_mm(stored: NDArray[np.uint16], scale: DepthScale) -> NDArray[np.float32]:
    """Depth in mm in the same shape; 0 stays 0.

    Args:
        stored: values of a 16-bit image.
        scale: units per metre, or ``sun`` for mm whose bits are rotated to the left by three.
    """
    if scale == "sun":
        return (stored >> _ROTATION | stored << (16 - _ROTATION)).astype(np.float32)
    return (stored * 1000.0 / scale).astype(np.float32)


def measured(stored: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which pixels hold a distance; 0 and 65535 mean no measurement."""
    return (stored > 0) & (stored < _OVERFLOW)


def doubt(
    stored: NDArray[np.uint16], scale: DepthScale, near_mm: float, far_mm: float
) -> str | None:
    """Why the unit of depth images is probably wrong, or why all pixels will look alike.

    The unit is probably wrong if most measured pixels are nearer than 0.3 m (or 1.5 ``near_mm`` if
    less) or farther than 7 m (or ``far_mm`` if above 10 m), while in another common unit nine
    tenths of them lie between 0.3 and 10 m. Of several such units, those whose step divides all
    values come first, then those whose median is nearest to 2.5 m. If 500 or more different values
    are multiples of the step of TUM RGB-D (5) or SUN RGB-D (8), the limit is 3 m instead of 7 m. In
    any unit, less than a twentieth of the pixels between ``near_mm`` and ``far_mm`` is suspicious.

    Args:
        stored: values of the images, in any shape.
        scale: the unit they are read in.
        near_mm: nearest distance with a distinct colour.
        far_mm: farthest distance with a distinct colour.

    Returns:
        The reason and the remedy, or None if everything is plausible.
    """
    values, counts = np.unique(stored[measured(stored)], return_counts=True)
    if not len(values):
        return "no pixel holds a distance; export the depth again"

    def share(unit: DepthScale, low: float, high: float) -> float:
        depth = in_mm(values, unit)
        return float(counts[(low <= depth) & (depth <= high)].sum() / counts.sum())

    many = _MOST * counts.sum()
    step = max(n for n in range(1, _LARGEST_STEP + 1) if counts[values % n == 0].sum() >= many)
    median = values[np.searchsorted(counts.cumsum(), counts.sum() / 2)]

    def unlikely(unit: DepthScale) -> tuple[bool, float]:
        distance = float(in_mm(median, unit))
        return _UNITS[unit].step != step, abs(log(distance / _TYPICAL_MM))

    likely = [
        unit
        for unit in sorted(_UNITS, key=unlikely)
        if unit != scale
        and (unit != "sun" or step % _UNITS[unit].step == 0)
        and share(unit, _NEAREST_MM, _FARTHEST_MM) >= _MOST
    ]
    low, high = min(_NEAREST_MM, 1.5 * near_mm), _FAR_MM
    if far_mm > _FARTHEST_MM:
        high = far_mm
    elif step in _TELLING and len(values) >= _DIFFERENT:
        high = _TOLD_MM
    if likely and (inside := share(scale, low, high)) < _HALF:
        first, *others = (f"{_shown(unit)} ({_UNITS[unit].name})" for unit in likely)
        return (
            f"only {inside:.0%} of the measured pixels lie between {low / 1000:g} and "
            f"{high / 1000:g} m, so its unit is probably not that of depth_scale="
            f"{_shown(scale)}, but {first}{', or else ' if others else ''}{', '.join(others)}. "
            "Set data.depth_scale (of vlynx prepare 7scenes, --depth-scale); if these distances "
            "are right, set data.near_mm and data.far_mm to them"
        )
    if (inside := share(scale, near_mm, far_mm)) < _FEW:
        return (
            f"only {inside:.0%} of the measured pixels lie between near_mm={near_mm:g} and "
            f"far_mm={far_mm:g}; all others look alike. Set data.near_mm and data.far_mm to "
            f"the distances of the scene, or data.depth_scale (now {_shown(scale)}) to its units "
            "per metre"
        )
    return None
