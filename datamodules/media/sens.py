"""Reading ScanNet's ``.sens`` recordings frame by frame.

A recording of several GB is never in memory: opening it reads the headers of its frames and skips
their images, which are read on demand. The layout is that of ScanNet's SensReader, version 4,
little endian; the block of inertial measurements after the frames is not read.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datamodules.media.images import DAMAGE
from datamodules.samples import BadSample

_VERSION = 4
_COLOUR_FORMATS = {0: "raw", 1: "png", 2: "jpeg"}
_DEPTH_FORMATS = {0: "raw_ushort", 1: "zlib_ushort"}
_OCCI = 2  # the depth codec of one sensor's SDK, missing in ScanNet's own Python reader too
_START = struct.Struct("<IQ")  # version, bytes of the sensor's name
_MATRICES = ("intrinsic_color", "extrinsic_color", "intrinsic_depth", "extrinsic_depth")
# The matrices; compressions; widths and heights; depth units per metre; number of frames.
_CAMERA = struct.Struct("<64f2i4IfQ")
_FRAME = struct.Struct("<16f4Q")  # camera to world; two timestamps; bytes of colour and of depth
# Far beyond any camera; a file that exceeds these is damaged and would only ask for memory.
_LONGEST_NAME = 4096
_LONGEST_SIDE = 16_384
_FINEST_SHIFT = 1e6  # a micrometre
_SLACK = 1 << 20  # bytes that a compressed image may have beyond twice its pixels
_AGAIN = "Download the file again; it is cut off or damaged"


class SensFrame(NamedTuple):
    """A frame's number, pose, and the position of its images in the file."""

    id: int
    pose: Tensor  # (4, 4) float32, camera to world; -inf where tracking was lost
    start: int  # byte at which colour begins; depth follows
    colour_bytes: int
    depth_bytes: int


@dataclass(frozen=True, eq=False)
class SensFile:
    """An opened recording; sizes are (H, W)."""

    path: Path
    matrices: Mapping[str, Tensor]  # by SensReader's names, such as intrinsic_depth; float32 (4, 4)
    colour_format: str  # raw, png or jpeg
    depth_format: str  # raw_ushort or zlib_ushort
    colour_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float  # units of stored depth per metre
    frames: tuple[SensFrame, ...] = field(repr=False)

    def stored_colour(self, frame: SensFrame) -> bytes:
        """The colour image as stored; raises BadSample."""
        return self._read(frame, frame.start, frame.colour_bytes, "colour")

    def read_colour(self, frame: SensFrame) -> Tensor:
        """uint8 (3, H, W).

        Raises:
            BadSample: the image is damaged, not 8-bit RGB, or not of the size in the header.
        """
        stored = self.stored_colour(frame)
        height, width = self.colour_size
        if self.colour_format == "raw":
            if len(stored) != height * width * 3:
                raise self._bad(frame, f"has {len(stored)} bytes of raw {width}x{height} colour")
            pixels: NDArray[np.uint8] = np.frombuffer(stored, np.uint8)
            pixels = pixels.reshape(height, width, 3)
        else:
            pixels = self._decode(frame, stored)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def read_depth(self, frame: SensFrame) -> Tensor:
        """float32 (H, W) in mm along the optical axis, 0 where nothing was measured.

        Raises:
            BadSample: the image is damaged or not of the size in the header.
        """
        depth = self.read_stored_depth(frame).astype(np.float32)
        return torch.from_numpy(depth * np.float32(1000 / self.depth_shift))

    def read_stored_depth(self, frame: SensFrame) -> NDArray[np.uint16]:
        """Depth (H, W) in the recording's own units; raises BadSample as ``read_depth``."""
        stored = self._read(frame, frame.start + frame.colour_bytes, frame.depth_bytes, "depth")
        height, width = self.depth_size
        expected = height * width * 2
        if self.depth_format == "zlib_ushort":
            inflate = zlib.decompressobj()
            try:  # at most one byte more than expected, whatever a bomb asks for
                stored = inflate.decompress(stored, expected + 1)
            except zlib.error as error:
                raise self._bad(frame, f"has depth that cannot be inflated ({error})") from error
            if len(stored) == expected and not inflate.eof:
                raise self._bad(frame, "has depth whose checksum is missing")
        if len(stored) != expected:
            count = f"over {expected}" if len(stored) > expected else f"{len(stored)}"
            raise self._bad(frame, f"has {count} bytes of {width}x{height} depth, not {expected}")
        return np.frombuffer(stored, "<u2").reshape(height, width)

    def _decode(self, frame: SensFrame, stored: bytes) -> NDArray[np.uint8]:
        height, width = self.colour_size
        try:
            with Image.open(BytesIO(stored), formats=[self.colour_format]) as image:
                if image.size != (width, height) or image.mode != "RGB":
                    found = f"{image.width}x{image.height} {image.mode}"
                    raise ValueError(f"{found}, not {width}x{height} RGB")
                return np.asarray(image)
        except DAMAGE as error:
            reason = f"has a {self.colour_format} image that cannot be used ({error})"
            raise self._bad(frame, reason) from error

    def _read(self, frame: SensFrame, start: int, count: int, stream: str) -> bytes:
        if count == 0:
            raise self._bad(frame, f"has no {stream}")
        with self.path.open("rb") as file:
            file.seek(start)
            return _exactly(file, count, self.path, f"frame {frame.id}")

    def _bad(self, frame: SensFrame, reason: str) -> BadSample:
        return BadSample(self.path, f"frame {frame.id} {reason}", _AGAIN)


def open_sens(path: Path) -> SensFile:
    """Read the header of a recording and of its frames, but no image.

    Raises:
        BadSample: the file is missing, truncated, of another version, in an unsupported
            compression, or has impossible figures.
    """
    if not path.is_file():
        raise BadSample(path, "is not a file", "Give a ScanNet .sens recording", "missing")
    with path.open("rb") as file:
        length = path.stat().st_size
        version, name = _START.unpack(_exactly(file, _START.size, path, "its header"))
        if version != _VERSION:
            remedy = "Download the scene's .sens file of ScanNet v2 again"
            raise BadSample(path, f"is of version {version}, not {_VERSION}", remedy)
        if name > _LONGEST_NAME:
            raise BadSample(path, f"names its sensor in {name} bytes", _AGAIN)
        _exactly(file, name, path, "its header")
        header = _CAMERA.unpack(_exactly(file, _CAMERA.size, path, "its header"))
        matrices = dict(zip(_MATRICES, torch.tensor(header[:64]).view(4, 4, 4), strict=True))
        colour, depth, *sides, shift, count = header[64:]
        _check(path, colour, depth, sides, shift, matrices["intrinsic_depth"])
        if count < 1 or count > (length - file.tell()) // _FRAME.size:
            reason = f"announces {count} frames, more than {length} bytes can hold"
            raise BadSample(path, reason if count else "holds no frame", _AGAIN)
        colour_size, depth_size = (sides[1], sides[0]), (sides[3], sides[2])
        limits = [2 * colour_size[0] * colour_size[1] * 3, 2 * depth_size[0] * depth_size[1] * 2]
        frames = _frames(file, path, count, length, limits)
    return SensFile(
        path,
        matrices,
        colour_format=_COLOUR_FORMATS[colour],
        depth_format=_DEPTH_FORMATS[depth],
        colour_size=colour_size,
        depth_size=depth_size,
        depth_shift=shift,
        frames=frames,
    )


def _check(
    path: Path, colour: int, depth: int, sides: list[int], shift: float, camera: Tensor
) -> None:
    if depth == _OCCI:
        raise BadSample(
            path,
            "has depth compressed as occi_ushort, which needs the sensor maker's library",
            "Export it with ScanNet's C++ SensReader; the exported folder can be read",
        )
    if colour not in _COLOUR_FORMATS or depth not in _DEPTH_FORMATS:
        reason = f"has the unknown compressions {colour} of colour and {depth} of depth"
        raise BadSample(path, reason, _AGAIN)
    if not all(0 < side <= _LONGEST_SIDE for side in sides):
        reason = "has colour of {}x{} and depth of {}x{} pixels".format(*sides)
        raise BadSample(path, reason, _AGAIN)
    if not (1 <= shift <= _FINEST_SHIFT):
        raise BadSample(path, f"has {shift:g} units of depth per metre", _AGAIN)
    if not (camera.isfinite().all() and camera[0, 0] > 0 and camera[1, 1] > 0):
        raise BadSample(path, "has no depth camera with positive fx and fy", _AGAIN)


def _frames(
    file: BinaryIO, path: Path, count: int, length: int, limits: list[int]
) -> tuple[SensFrame, ...]:
    frames = []
    for number in range(count):
        *pose, _, _, colour, depth = _FRAME.unpack(
            _exactly(file, _FRAME.size, path, f"frame {number} of {count}")
        )
        start = file.tell()
        if colour > limits[0] + _SLACK or depth > limits[1] + _SLACK:
            reason = f"frame {number} announces {colour} bytes of colour and {depth} of depth"
            raise BadSample(path, reason, _AGAIN)
        if start + colour + depth > length:
            raise BadSample(path, f"ends within frame {number} of {count}", _AGAIN)
        file.seek(colour + depth, 1)
        frames.append(SensFrame(number, torch.tensor(pose).view(4, 4), start, colour, depth))
    return tuple(frames)


def _exactly(file: BinaryIO, count: int, path: Path, part: str) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise BadSample(path, f"ends within {part}", _AGAIN)
    return data
