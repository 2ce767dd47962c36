"""Decoding single pictures, wholly or not at all: a truncated file is an error, not a grey rest."""

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.samples import BadSample

# Pillow goes by a file's content whatever its name is, and for others it may run a program.
_FORMATS = ("JPEG", "PNG", "TIFF")
# What Pillow raises on damaged files, beside OSError: its PNG chunks, inflate, header fields, and
# sizes that no picture has.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
)


def read_colour(path: Path, upright: bool = False) -> Tensor:
    """Read an 8-bit RGB picture as uint8 (3, H, W).

    Args:
        path: JPEG, PNG or TIFF.
        upright: turn and mirror it by its EXIF orientation, as players do; depth that belongs to
            it would stay as it is stored.

    Raises:
        BadSample: the file is missing, truncated, or not 8-bit RGB.
    """
    image = _decode(path, upright)
    if image.mode != "RGB":
        raise BadSample(
            path,
            f"is a picture of mode {image.mode}, 8-bit RGB is expected",
            "Export the colour stream again, or convert the picture to RGB",
        )
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_depth(path: Path) -> Tensor:
    """Read a 16-bit depth picture as float32 (H, W) in mm, 0 where the camera saw nothing.

    Raises:
        BadSample: the file is missing, truncated, not 16-bit, or zero everywhere.
    """
    image = _decode(path)
    if not image.mode.startswith("I;16"):
        raise BadSample(
            path,
            f"is a picture of mode {image.mode}, 16-bit depth in mm is expected",
            "Export the depth stream again as 16-bit greyscale PNG, in millimetres",
        )
    depth = torch.from_numpy(np.asarray(image).astype(np.float32))
    if not depth.any():
        raise BadSample(
            path,
            "has depth 0 (no measurement) in every pixel",
            "Remove the frame from depth/ and color/, or export it again",
        )
    return depth


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header of a picture, without decoding it.

    Raises:
        BadSample: the file is missing or is no picture.
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
