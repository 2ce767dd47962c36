import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.depth_units import check_scale, doubt, in_mm, parse_scale
from vlynx_pl.io.errors import UserError

RANDOM = np.random.default_rng(0)


def distances(median_mm, spread=0.4, nearest=400, farthest=8000):
    """Whole mm of two images, with a fifth of the pixels missing."""
    depth = RANDOM.lognormal(np.log(median_mm), spread, (2, 60, 80))
    return np.where(RANDOM.random(depth.shape) < 0.2, 0, depth.clip(nearest, farthest).round())


def stored(depth_mm, scale):
    if scale == "sun":
        depth = depth_mm.astype(np.uint16)
        return depth << 3 | depth >> 13
    return np.minimum((depth_mm * scale / 1000).round(), 65535).astype(np.uint16)


# A slanted wall in tens of mm, and rooms.
SLOPE = 1500.0 + 10 * np.arange(160) + np.zeros((120, 1))
ROOM, DESK = distances(2000), distances(1100, 0.3)


@given(st.sampled_from([1000, 4000, 5000, "sun", 100, 6553.5]), st.integers(0, 65535))
def test_the_depth_of_every_unit_is_that_in_mm(scale, value):
    whole = value // 10 * 10 if scale == 100 else value
    if scale != "sun" and whole * scale / 1000 > 65535:
        return
    [depth] = in_mm(stored(np.array([float(whole)]), scale), scale)
    assert depth.dtype == np.float32
    assert depth == (pytest.approx(whole, abs=0.1) if scale == 6553.5 else whole)


@pytest.mark.parametrize("scale", [5000, 4000, 10_000, "sun", 100, 1])
@pytest.mark.parametrize("depth_mm", [SLOPE, ROOM], ids=["slope", "room"])
def test_another_unit_is_named(depth_mm, scale):
    said = doubt(stored(depth_mm, scale), 1000, 200, 10_000)
    assert f"probably not that of depth_scale=1000, but {scale} (" in said
    assert "Set data.depth_scale" in said and "set data.near_mm and data.far_mm" in said
    assert doubt(stored(depth_mm, scale), scale, 200, 10_000) is None


@pytest.mark.parametrize("scale", [5000, "sun"])
def test_the_steps_of_tum_and_sun_tell_them_from_a_hall(scale):
    said = doubt(stored(DESK, scale), 1000, 200, 10_000)
    assert f"depth_scale=1000, but {scale} (" in said
    assert doubt(distances(5500).astype(np.uint16), 1000, 200, 10_000) is None


@pytest.mark.parametrize("scale", ["sun", 100])
def test_mm_read_in_another_unit(scale):
    assert "but 1000 (mm)" in doubt(stored(ROOM, 1000), scale, 200, 10_000)


@pytest.mark.parametrize(
    ("depth_mm", "near_mm", "far_mm"),
    [
        (ROOM, 200, 10_000),
        (ROOM, 800, 8000),
        (SLOPE, 200, 10_000),
        (DESK, 200, 10_000),
        (RANDOM.uniform(250, 600, (60, 80)), 200, 10_000),
        (RANDOM.uniform(80, 300, (60, 80)), 50, 1000),
        (distances(5500, farthest=20_000), 200, 4000),
        (distances(20_000, 0.5, farthest=60_000), 200, 60_000),
        (np.where(np.arange(160) < 150, 65535, SLOPE), 200, 10_000),
        (np.where(np.arange(160) < 150, 0, SLOPE), 200, 10_000),
    ],
)
def test_healthy_depth_is_not_doubted(depth_mm, near_mm, far_mm):
    assert doubt(depth_mm.round().astype(np.uint16), 1000, near_mm, far_mm) is None


def test_a_range_without_pixels_is_doubted_whatever_the_unit():
    said = doubt(stored(ROOM, 1000), 1000, 9000, 10_000)
    assert "only 0% of the measured pixels lie between near_mm=9000 and far_mm=10000" in said
    assert doubt(np.array([0, 65535], np.uint16), 1000, 200, 10_000).startswith("no pixel")


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_an_impossible_scale(scale):
    with pytest.raises(UserError, match=r"depth_scale=.* is not a scale; give the units per metre"):
        check_scale(scale)


def test_a_scale_on_the_command_line():
    assert [parse_scale(text) for text in ("5000", "6553.5", "sun")] == [5000, 6553.5, "sun"]
    with pytest.raises(UserError, match="depth_scale='moon' is neither a number nor sun"):
        parse_scale("moon")
