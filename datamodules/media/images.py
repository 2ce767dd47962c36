"""Decoding single images, whole or not at all: a truncated file is an error."""

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.media.depth_units import DepthScale, in_mm, measured
from datamodules.samples import BadSample

# Pillow goes by a file's content, not its name, and may run a program for other formats.
_FORMATS = ("JPEG", "PNG", "TIFF")
# What Pillow raises on damaged files, besides OSError: for PNG chunks, inflate, header fields and
# absurd sizes.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
)
_EXPORT = "Export the depth stream again as 16-bit greyscale PNG, in millimetres"
# Remedies for depth in another format, by Pillow's mode.
_CONVERT = {
    "F": "Save it as 16-bit greyscale PNG, in millimetres: metres times 1000, rounded",
    "I": "Save its values as 16-bit greyscale PNG, in millimetres (or set data.depth_scale)",
    **dict.fromkeys(
        ("L", "P", "RGB", "RGBA"),
        "Export the depth stream itself, as 16-bit greyscale PNG in millimetres: this is an image "
        "to look at, without distances",
    ),
}


def read_colour(path: Path, upright: bool = False) -> Tensor:
    """Read an 8-bit RGB image as uint8 (3, H, W).

    Args:
        path: JPEG, PNG or TIFF.
        upright: turn and mirror it by its EXIF orientation, as players do (depth that belongs to
            the image has none).

    Raises:
        BadSample: the file is missing, truncated, or not 8-bit RGB.
    """
    image = _decode(path, upright)
    if image.mode != "RGB":
        raise BadSample(
            path,
            f"is an image of mode {image.mode}, 8-bit RGB is expected",
            "Export the colour stream again, or convert the image to RGB",
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_depth(path: Path, scale: DepthScale = 1000) -> Tensor:
    """Read a 16-bit depth image as float32 (H, W) in mm, 0 where nothing was measured.

    Args:
        path: the image.
        scale: its units per metre, see :func:`datamodules.media.depth_units.in_mm`.

    Raises:
        BadSample: the file is missing, truncated, not 16-bit, or holds no distance.
    """
    stored = stored_depth(path)
    if not measured(stored).any():
        raise BadSample(
            path,
            "has 0 or 65535 (no measurement) in every pixel",
            "Remove the frame from depth/ and color/, or export it again",
        )
    return torch.from_numpy(in_mm(stored, scale))


def stored_depth(path: Path) -> NDArray[np.uint16]:
    """The values (H, W) of a 16-bit depth image, in its own units.

    Raises:
        BadSample: the file is missing, truncated, or not 16-bit.
    """
    image = _decode(path)
    if not image.mode.startswith("I;16"):
        raise BadSample(
            path,
            f"is an image of mode {image.mode}, 16-bit depth is expected",
            _CONVERT.get(image.mode, _EXPORT),
        )
    return np.asarray(image).astype(np.uint16)


def read_instances(path: Path) -> Tensor:
    """Read an 8- or 16-bit grey image of object numbers as int64 (H, W).

    Raises:
        BadSample: the file is missing, truncated, or of another kind.
    """
    image = _decode(path)
    if image.mode != "L" and not image.mode.startswith("I;16"):
        raise BadSample(
            path,
            f"is an image of mode {image.mode}, 8- or 16-bit grey is expected",
            "Export the instance labels again, one number per pixel",
        )
    return torch.from_numpy(np.asarray(image).astype(np.int64))


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header of an image, without decoding it.

    Raises:
        BadSample: the file is missing or not an image.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.height, image.width
    except DAMAGE as error:
        raise _undecodable(path, error) from error


def _decode(path: Path, upright: bool = False) -> Image.Image:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image) if upright else image.copy()
    except DAMAGE as error:
        raise _undecodable(path, error) from error


def _undecodable(path: Path, error: BaseException) -> BadSample:
    missing = isinstance(error, FileNotFoundError)
    return BadSample(
        path,
        f"cannot be decoded ({error})",
        "Copy or export the file again; it may be cut off",
        "missing" if missing else "unreadable",
    )
