"""Writing .sens recordings and sound, and comparing the sound that is read."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.media.audio import read_sound
from datamodules.samples import BadSample

RAW, PNG, JPEG = 0, 1, 2
RAW_USHORT, ZLIB_USHORT, OCCI_USHORT = 0, 1, 2
COLOUR_SIZE, DEPTH_SIZE = (12, 16), (6, 8)  # (H, W)
LOST = np.full((4, 4), -np.inf)
HEADER = 4 + 8 + 3 + 256 + 8 + 16 + 4 + 8  # bytes of write_sens's, whose sensor has three letters


def colour_of(number, size=COLOUR_SIZE):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)


def depth_of(number):
    return np.random.default_rng(number).integers(1, 9000, DEPTH_SIZE, np.uint16)


def pose_of(number):
    turn = np.float32(number / 7)
    pose = np.eye(4, dtype=np.float32)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, 3] = turn, 1 / 3, 2
    return pose


def encoded(pixels, colour):
    if colour == RAW:
        return pixels.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if colour == JPEG else "PNG")
    return buffer.getvalue()


def frame_bytes(
    number, colour=JPEG, depth=ZLIB_USHORT, *, pose=None, stored=None, values=None, deflated=None
):
    stored = encoded(colour_of(number), colour) if stored is None else stored
    raw = (depth_of(number) if values is None else values).astype("<u2").tobytes()
    deflated = deflated or (zlib.compress(raw) if depth == ZLIB_USHORT else raw)
    matrix = (pose_of(number) if pose is None else pose).astype("<f4").tobytes()
    return matrix + struct.pack("<4Q", 1, 2, len(stored), len(deflated)) + stored + deflated


def write_sens(
    path, frames=None, *, colour=JPEG, depth=ZLIB_USHORT, version=4, count=None, sides=None,
    shift=1000.0, camera=None, tail=b"",
):  # fmt: skip
    frames = [frame_bytes(i, colour, depth) for i in range(3)] if frames is None else frames
    matrices = np.stack([np.eye(4), np.eye(4) * 3, np.eye(4), np.eye(4) * 5]).astype("<f4")
    matrices[2, :3, :3] = [[9, 0, 4], [0, 9, 3], [0, 0, 1]] if camera is None else camera
    sides = sides or (*COLOUR_SIZE[::-1], *DEPTH_SIZE[::-1])
    count = len(frames) if count is None else count
    path.write_bytes(
        struct.pack("<IQ3s", version, 3, b"cam")
        + matrices.tobytes()
        + struct.pack("<2i4IfQ", colour, depth, *sides, shift, count)
        + b"".join(frames)
        + tail
    )
    return path


def chirp(seconds, rate):
    """From 200 Hz up, so that no two parts sound the same; float32 (N,)."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 * t + 150 * t**2))).astype(np.float32)


def mux_sound(file, track, channels, start=0.0, step=1000):
    """Encode float32 (C, N), ``step`` samples per frame."""
    convert = av.AudioResampler(format=track.codec_context.format.name)
    for at in range(0, channels.shape[1], step):
        part = np.ascontiguousarray(channels[:, at : at + step])
        frame = av.AudioFrame.from_ndarray(part, "fltp", track.layout.name)
        frame.rate, frame.time_base = track.rate, Fraction(1, track.rate)
        frame.pts = round(start * track.rate) + at
        for converted in convert.resample(frame):
            file.mux(track.encode(converted))
    file.mux(track.encode())


def write_sound(path, channels, rate, codec, layout="mono", step=1000, **options):
    """A sound file of float32 (C, N)."""
    with av.open(str(path), "w") as file:
        track = file.add_stream(codec, rate=rate, layout=layout, options=options)
        mux_sound(file, track, channels, step=step)
    return path


def refuses_sound(path, *words, trouble="unreadable", span=None):
    with pytest.raises(BadSample) as caught:
        read_sound(path, span)
    assert caught.value.trouble == trouble and caught.value.remedy
    for word in (path.name, *words):
        assert word in str(caught.value)


def lag(found, wanted):
    """The number of samples by which one follows the other, and how alike they then are."""
    n = len(found) + len(wanted)
    spectra = [np.fft.rfft(x, n) for x in (found, wanted)]
    likeness = np.fft.irfft(spectra[0] * spectra[1].conj(), n)
    at = int(likeness.argmax())
    norm = np.linalg.norm(found) * np.linalg.norm(wanted)
    return (at if at < n // 2 else at - n), likeness[at] / norm
