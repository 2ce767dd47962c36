import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.media.images import image_size, read_colour, read_depth
from datamodules.samples import BadSample

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
MILLIMETRES = np.random.default_rng(1).integers(0, 65536, (20, 30), dtype=np.uint16)


def encoded(pixels, form):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def test_pixels_are_unchanged(tmp_path):
    (tmp_path / "c.png").write_bytes(encoded(PIXELS, "PNG"))
    (tmp_path / "d.png").write_bytes(encoded(MILLIMETRES, "PNG"))
    assert torch.equal(read_colour(tmp_path / "c.png"), torch.from_numpy(PIXELS).permute(2, 0, 1))
    depth = read_depth(tmp_path / "d.png")
    assert depth.dtype == torch.float32
    assert np.array_equal(depth.numpy(), MILLIMETRES)
    assert image_size(tmp_path / "d.png") == (20, 30)


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (encoded(PIXELS, "JPEG"), read_colour),
        (encoded(PIXELS, "PNG"), read_colour),
        (encoded(MILLIMETRES, "PNG"), read_depth),
    ],
    ids=["jpeg", "colour png", "depth png"],
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_an_error_or_whole(tmp_path, data, read, share):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(data)
    cut.write_bytes(data[: int(share * len(data))])
    try:
        pixels = read(cut)
    except BadSample as bad:
        assert str(cut) in str(bad) and "Copy or export the file again" in str(bad)
    else:  # only bytes after the last pixel were lost
        assert torch.equal(pixels, read(whole))


@pytest.mark.parametrize(
    ("data", "mode", "remedy"),
    [
        (encoded((MILLIMETRES >> 8).astype(np.uint8), "PNG"), "L", "an image to look at"),
        (encoded(PIXELS, "PNG"), "RGB", "an image to look at"),
        (encoded(MILLIMETRES.astype(np.float32), "TIFF"), "F", "metres times 1000"),
        (encoded(MILLIMETRES.astype(np.int32), "TIFF"), "I", "Save its values as 16-bit"),
    ],
)
def test_depth_that_is_not_16_bit_is_refused(tmp_path, data, mode, remedy):
    path = tmp_path / "7.png"
    path.write_bytes(data)
    with pytest.raises(BadSample, match=rf"7\.png: .*mode {mode}, 16-bit .*{remedy}") as caught:
        read_depth(path)
    assert "in millimetres" in caught.value.remedy


@pytest.mark.parametrize("value", [0, 65535])
def test_depth_without_a_measurement_is_refused(tmp_path, value):
    path = tmp_path / "7.png"
    path.write_bytes(encoded(np.full((4, 4), value, np.uint16), "PNG"))
    with pytest.raises(BadSample, match=r"7\.png: .*in every pixel\. Remove the frame"):
        read_depth(path)


def test_colour_that_is_depth_is_refused(tmp_path):
    path = tmp_path / "7.png"
    path.write_bytes(encoded(MILLIMETRES, "PNG"))
    with pytest.raises(BadSample, match=r"7\.png: .*8-bit RGB is expected\. Export"):
        read_colour(path)


@pytest.mark.parametrize("read", [read_colour, read_depth, image_size])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(BadSample, match=r"absent\.png: cannot be decoded \(.*No such file"):
        read(tmp_path / "absent.png")


def test_an_image_of_absurd_size_is_refused(tmp_path):
    data = bytearray(encoded(PIXELS, "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path = tmp_path / "7.png"
    path.write_bytes(data)
    for read in (read_colour, read_depth, image_size):
        with pytest.raises(BadSample, match=r"7\.png: cannot be decoded"):
            read(path)


@pytest.mark.parametrize("read", [read_colour, image_size])
def test_a_script_named_as_an_image_is_not_run(tmp_path, monkeypatch, read):
    path = tmp_path / "7.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\nshowpage\n%%EOF\n")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(BadSample, match=r"7\.jpg: cannot be decoded"):
        read(path)
