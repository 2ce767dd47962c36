import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datamodules.media.sens import open_sens
from datamodules.samples import BadSample
from tests.datamodules.media.recordings import (
    COLOUR_SIZE,
    DEPTH_SIZE,
    HEADER,
    JPEG,
    OCCI_USHORT,
    PNG,
    RAW,
    RAW_USHORT,
    ZLIB_USHORT,
    colour_of,
    depth_of,
    encoded,
    frame_bytes,
    pose_of,
    write_sens,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scene0000_00.sens"


def refuses(path, reason, read=open_sens):
    """The error names the file, the reason and a remedy."""
    with pytest.raises(BadSample, match=reason) as caught:
        read(path)
    assert caught.value.path == path and caught.value.remedy


@pytest.mark.parametrize(
    ("colour", "depth", "shift"),
    [(PNG, RAW_USHORT, 1000.0), (RAW, ZLIB_USHORT, 100.0), (JPEG, ZLIB_USHORT, 5000.0)],
)
def test_what_was_written_is_read(path, colour, depth, shift):
    imu = struct.pack("<Q", 2) + bytes(2 * 136)  # not read
    recording = open_sens(write_sens(path, colour=colour, depth=depth, shift=shift, tail=imu))
    assert [frame.id for frame in recording.frames] == [0, 1, 2]
    for frame in reversed(recording.frames):  # in any order
        pixels, stored = colour_of(frame.id), recording.stored_colour(frame)
        assert stored == encoded(pixels, colour)
        if colour != RAW:
            pixels = np.array(Image.open(io.BytesIO(stored)))
        expected = torch.from_numpy(pixels).permute(2, 0, 1)
        assert torch.equal(recording.read_colour(frame), expected)
        depth_mm = recording.read_depth(frame)
        assert depth_mm.dtype == torch.float32
        np.testing.assert_allclose(depth_mm, depth_of(frame.id) * 1000.0 / shift, rtol=1e-6)
        assert torch.equal(frame.pose, torch.from_numpy(pose_of(frame.id)).float())
    assert recording.matrices["intrinsic_depth"][0].tolist() == [9, 0, 4, 0]
    assert recording.matrices["extrinsic_color"][0, 0] == 3
    assert recording.matrices["extrinsic_depth"][0, 0] == 5
    assert (recording.colour_size, recording.depth_size) == (COLOUR_SIZE, DEPTH_SIZE)


def bytes_read():
    """By this process, so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_opening_reads_no_image(path):
    blank = encoded(np.zeros((*COLOUR_SIZE, 3), np.uint8), JPEG) + bytes(500_000)
    write_sens(path, [frame_bytes(i, stored=blank) for i in range(4)])
    before = bytes_read()
    recording = open_sens(path)
    assert path.stat().st_size > 2_000_000 and bytes_read() - before < 50_000
    recording.read_depth(recording.frames[3])
    assert bytes_read() - before < 100_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 3}, "is of version 3, not 4"),
        ({"depth": OCCI_USHORT}, "occi_ushort.*C.. SensReader"),
        ({"depth": 7}, "unknown compressions 2 .* 7"),
        ({"colour": -1, "frames": []}, "unknown compressions -1"),
        ({"count": 0}, "holds no frame"),
        ({"count": 1 << 60}, "announces 1152921504606846976 frames"),
        ({"count": 4}, "announces 4 frames|ends within"),
        ({"sides": (0, 12, 8, 6)}, "colour of 0x12"),
        ({"sides": (16, 12, 8, 1 << 31)}, "depth of 8x2147483648"),
        ({"shift": 0.0}, "has 0 units of depth per metre"),
        ({"shift": float("nan")}, "has nan units"),
        ({"camera": np.zeros((3, 3))}, "no depth camera"),
        ({"camera": np.full((3, 3), np.nan)}, "no depth camera"),
    ],
)
def test_an_impossible_header(path, changes, reason):
    frames = changes.pop("frames", [frame_bytes(0)])
    refuses(write_sens(path, frames, **changes), reason)


@given(part=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_off_anywhere(tmp_path_factory, part):
    path = write_sens(tmp_path_factory.mktemp("sens") / "s.sens")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refuses(path, "ends within|can hold")


@pytest.mark.parametrize("size", [1 << 63, 1 << 40, 2_000_000])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (4, "names its sensor in {} bytes"),
        (HEADER + 16 * 4 + 16, "frame 0 announces .*{}"),  # of colour
        (HEADER + 16 * 4 + 24, "frame 0 announces .*{}"),  # of depth
    ],
)
def test_an_absurd_size(path, place, reason, size):
    data = bytearray(write_sens(path, tail=bytes(3_000_000)).read_bytes())
    struct.pack_into("<Q", data, place, size)
    path.write_bytes(data)
    refuses(path, reason.format(size))


def test_a_bomb_does_not_get_the_memory_it_asks_for(path):
    recording = open_sens(write_sens(path, [frame_bytes(0, deflated=zlib.compress(bytes(10**8)))]))
    tracemalloc.start()
    refuses(path, "over 96 bytes", lambda _: recording.read_depth(recording.frames[0]))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"deflated": zlib.compress(bytes(1_000))}, "over 96 bytes of 8x6 depth, not 96"),
        ({"deflated": zlib.compress(bytes(94))}, "has 94 bytes"),
        ({"deflated": zlib.compress(bytes(96))[:-2]}, "checksum is missing"),
        ({"deflated": b"no zlib"}, "cannot be inflated"),
        ({"stored": encoded(colour_of(1), JPEG)[:-40]}, "truncated"),
        ({"stored": encoded(colour_of(1), PNG)}, "cannot be used"),
        ({"stored": encoded(colour_of(1, (6, 8)), JPEG)}, "8x6 RGB, not 16x12 RGB"),
        ({"stored": encoded(colour_of(1)[..., 0], JPEG)}, "16x12 L"),
        ({"stored": b""}, "has no colour"),
    ],
)
def test_damage_affects_its_own_frame_only(path, damage, reason):
    recording = open_sens(write_sens(path, [frame_bytes(0), frame_bytes(1, **damage)]))
    read = recording.read_depth if "deflated" in damage else recording.read_colour
    read(recording.frames[0])
    refuses(path, f"frame 1 .*{reason}", lambda _: read(recording.frames[1]))


def test_raw_images_have_the_size_of_the_header(path):
    frame = frame_bytes(0, RAW, stored=bytes(30), depth=RAW_USHORT, deflated=bytes(20))
    recording = open_sens(write_sens(path, [frame], colour=RAW, depth=RAW_USHORT))
    refuses(path, "30 bytes of raw 16x12", lambda _: recording.read_colour(recording.frames[0]))
    refuses(path, "20 bytes of 8x6 depth", lambda _: recording.read_depth(recording.frames[0]))


def test_a_file_that_is_missing_or_shrinks_after_opening(path):
    refuses(path, "is not a file")
    recording = open_sens(write_sens(path))
    path.write_bytes(path.read_bytes()[:-10])
    refuses(path, "ends within frame 2", lambda _: recording.read_depth(recording.frames[2]))
