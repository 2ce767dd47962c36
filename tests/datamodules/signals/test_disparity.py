import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.signals import disparity

metres = st.floats(-1, 20)


def reference_index(depth_mm, near_mm, far_mm):
    """Independent numpy version, in metres as the released code has it, without its epsilon."""
    depth = np.array(depth_mm, dtype=np.float64) / 1000
    depth[depth <= 0] = far_mm / 1000
    inverse = 1.0 / np.clip(depth, near_mm / 1000, far_mm / 1000)
    low, high = 1000 / far_mm, 1000 / near_mm
    return 255 * (inverse - low) / (high - low)


@given(
    st.lists(metres, min_size=1, max_size=30),
    st.floats(1, 1000),
    st.floats(1100, 20_000),
)
def test_gray_is_the_rounded_share_of_inverse_depth(depths, near, far):
    depth = torch.tensor([depths], dtype=torch.float64) * 1000
    frame = disparity(depth, near, far, "gray")
    assert frame.shape == (3, 1, len(depths)) and frame.dtype == torch.uint8
    exact = reference_index(depth.numpy(), near, far)
    for channel in frame:
        assert np.abs(channel.numpy() - exact).max() <= 0.5 + 1e-9


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=30))
def test_colours_look_up_the_same_disparity(depths):
    depth = torch.tensor([depths])
    index = disparity(depth, colours="gray")[0].long()
    table = torch.from_numpy(turbo_of_matplotlib())
    assert torch.equal(disparity(depth, colours="turbo"), table[index].movedim(-1, -3))


def turbo_of_matplotlib():
    colours = np.array(matplotlib.colormaps["turbo"](np.arange(256)))[:, :3]
    return np.round(255 * colours).astype(np.uint8)


def depth_for_every_index():
    index = torch.arange(256, dtype=torch.float64)
    return (1 / (1 / 10_000 + index / 255 * (1 / 200 - 1 / 10_000)))[None]


def test_turbo_is_the_published_table():
    frame = disparity(depth_for_every_index(), colours="turbo")
    assert np.array_equal(frame[:, 0].T.numpy(), turbo_of_matplotlib())


def test_no_measurement_counts_as_far():
    depth = torch.tensor([[0.0, -5.0, float("nan"), 10_000.0, 30_000.0]])
    frame = disparity(depth)
    assert (frame == frame[..., 3:4]).all()
    assert frame[:, 0, 0].tolist() == [48, 18, 59]


def test_leading_dimensions_and_integers_pass():
    depth = torch.full((2, 5, 4, 6), 700, dtype=torch.int32).to(torch.uint16)
    frame = disparity(depth)
    assert frame.shape == (2, 5, 3, 4, 6) and frame.is_contiguous()
    assert torch.equal(frame[1, 3], disparity(torch.full((4, 6), 700.0)))


@pytest.mark.parametrize(("near", "far"), [(0, 100), (200, 200), (500, 200), (float("nan"), 9)])
def test_an_impossible_range_names_both_ends(near, far):
    with pytest.raises(ValueError, match=rf"near_mm={near} and far_mm={far}.*0 < near_mm < far_mm"):
        disparity(torch.ones(2, 2), near, far)
