import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from datamodules.signals import tiling

# torch itself fails on frames of one pixel.
halves = st.integers(2, 9)


@given(st.integers(1, 3), halves, halves, st.integers(2, 20), st.integers(2, 20))
def test_every_frame_is_resized_once_into_its_place(count, rows, columns, height, width):
    frames = torch.randint(256, (4 * count, 3, height, width), dtype=torch.uint8)
    tiled = tiling(frames, (2 * rows, 2 * columns))
    assert tiled.shape == (count, 3, 2 * rows, 2 * columns) and tiled.dtype == torch.uint8
    for index, frame in enumerate(frames):
        tile, place = divmod(index, 4)
        row, column = divmod(place, 2)
        found = tiled[tile, :, row * rows :, column * columns :][:, :rows, :columns]
        wanted = resize(frame, [rows, columns], InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(found, wanted)


def test_a_fast_flicker_becomes_grey_and_not_stripes():
    """Without antialiasing, halving a grid of single pixels keeps every second line alone."""
    grid = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    grid[:, :, ::2] = 255
    tiled = tiling(grid, (32, 32)).float()
    inner = tiled[..., 3:13, 3:13]
    assert inner.std() < 8 and 110 < inner.mean() < 145


@pytest.mark.parametrize(
    ("count", "size", "words"), [(5, (8, 8), "5 frames"), (0, (8, 8), "0 frames"), (4, (7, 8), "7")]
)
def test_what_cannot_be_tiled_is_refused(count, size, words):
    with pytest.raises(ValueError, match=words):
        tiling(torch.zeros(count, 3, 4, 4, dtype=torch.uint8), size)
