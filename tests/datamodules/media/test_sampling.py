from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.sampling import At, Rate, Timeline, Uniform, choose

MS = Fraction(1, 1000)


def steady(frames, fps=Fraction(30), tick=MS, offset=0):
    """A constant rate as a container's clock rounds it."""
    begins = [offset + round(i / fps / tick) for i in range(frames)]
    return Timeline(begins, offset + round(frames / fps / tick), tick)


@st.composite
def uneven(draw):
    steps = draw(st.lists(st.integers(1, 400), min_size=1, max_size=30))
    begins = np.cumsum([draw(st.integers(-500, 500)), *steps]).tolist()
    return Timeline(begins[:-1], begins[-1], draw(st.sampled_from([MS, Fraction(1, 90000)])))


rates = st.sampled_from(
    [Fraction(n) for n in (1, 3, 10, 24, 25, 30, 50, 60)] + [Fraction(30000, 1001)]
)
ticks = st.sampled_from([MS, Fraction(1, 15360), Fraction(1, 90000), Fraction(1, 1000000)])


@given(st.integers(1, 400), st.integers(2, 100), rates, ticks, st.integers(-9000, 9000))
def test_uniform_on_a_constant_rate_is_the_released_choice(total, frames, fps, tick, offset):
    wanted = [k * (total - 1) // (frames - 1) for k in range(frames)]
    assert choose(Uniform(frames), steady(total, fps, tick, offset)) == wanted
    released = np.trunc(np.linspace(0, total - 1, frames)).astype(int)
    # Floating point may end just under a whole number, and only there.
    for k, (ours, theirs) in enumerate(zip(wanted, released, strict=True)):
        assert ours == theirs or (k * (total - 1) % (frames - 1) == 0 and ours == theirs + 1)


@given(uneven(), st.integers(2, 60))
def test_uniform_shows_the_frames_at_even_timestamps(timeline, frames):
    begins = timeline.begins
    found = choose(Uniform(frames), timeline)
    assert found[0] == 0 and found[-1] == len(begins) - 1 and found == sorted(found)
    tick_of = [begins[0] + k * (begins[-1] - begins[0]) / (frames - 1) for k in range(frames)]
    for time, frame in zip(tick_of, found, strict=True):
        assert begins[frame] <= time + 1  # a tick of rounding, where the rate is constant
        assert frame + 1 == len(begins) or time - 1 < begins[frame + 1]


def test_one_uniform_frame_is_the_first():
    assert choose(Uniform(1), steady(9)) == [0]
    assert choose(Uniform(1), steady(90), (1.0, 2.0)) == [30]


def test_a_slow_start_and_a_fast_end_keep_the_time_grid():
    timeline = Timeline([0, 1000, 2000, 2010, 2020, 2030, 4000], 4010, MS)
    assert choose(Uniform(5), timeline) == [0, 1, 2, 5, 6]


def test_a_frame_dropped_on_a_coarse_clock_is_not_rounding():
    timeline = Timeline([0, 1, 2, 4, 5, 6], 7, Fraction(1, 30))
    assert choose(Uniform(7), timeline) == [0, 1, 2, 2, 3, 4, 5]


@given(uneven(), st.data())
def test_at_shows_the_last_frame_that_has_begun(timeline, data):
    seconds = data.draw(st.floats(0, float(timeline.duration) * 0.999))
    (frame,) = choose(At((seconds,)), timeline)
    slack = float(timeline.tick) * 0.51
    assert float(timeline.seconds(frame)) <= seconds + slack
    if frame + 1 < len(timeline.begins):
        assert seconds < float(timeline.seconds(frame + 1)) + slack


@given(uneven())
def test_times_that_were_given_choose_their_frames_again(timeline):
    frames = range(len(timeline.begins))
    times = tuple(float(timeline.seconds(frame)) for frame in frames)
    assert choose(At(times), timeline) == list(frames)


@given(rates, ticks, st.integers(1, 10))
def test_rate_counts_seconds(fps, tick, seconds):
    timeline = steady(int(fps * seconds), fps, tick)
    found = choose(Rate(1.0), timeline)
    assert found == [
        -int(-k * fps // 1) if k * fps % 1 == 0 else int(k * fps) for k in range(len(found))
    ]
    assert len(found) == -(-len(timeline.begins) // fps)


@pytest.mark.parametrize("tick", [MS, Fraction(1, 15360)])
def test_rate_survives_a_clock_that_rounds_up(tick):
    """At 30 frames a second, frame 2 begins at 66.67 ms, and Matroska says 67."""
    assert choose(Rate(15.0), steady(30, tick=tick)) == list(range(0, 30, 2))
    assert choose(Rate(30.0), steady(90, tick=tick)) == list(range(90))


def test_too_many_of_a_rate_become_uniform():
    timeline = steady(300)
    assert choose(Rate(1.0, 10), timeline) == list(range(0, 300, 30))
    assert choose(Rate(2.0, 10), timeline) == choose(Uniform(10), timeline)


@given(st.integers(0, 8), st.integers(1, 9), st.sampled_from([MS, Fraction(1, 15360)]))
def test_neighbouring_spans_share_no_frame(start, length, tick):
    end = min(start + length, 9)
    found = choose(Uniform(500), steady(270, tick=tick), (start, end)) if end > start else []
    assert sorted(set(found)) == list(range(30 * start, 30 * end))


def test_a_span_begins_with_the_frame_shown_at_its_start():
    timeline = Timeline([0, 1000, 2000], 3000, MS)
    assert choose(Uniform(2), timeline, (1.5, 2.5)) == [1, 2]
    assert choose(Uniform(2), timeline, (1.2, 1.4)) == [1, 1]
    assert choose(Rate(4.0), timeline, (1.5, 2.5)) == [1, 1, 2, 2]
    assert choose(Uniform(2), timeline, (-5.0, 99.0)) == [0, 2]
    assert choose(Uniform(2), timeline, (2.9, float("inf"))) == [2, 2]


nan = float("nan")


@pytest.mark.parametrize(
    "span", [(3.0, 4.0), (1.0, 1.0), (2.0, 1.0), (-2.0, -1.0), (nan, 1.0), (0.0, nan)]
)
def test_spans_without_a_frame(span):
    with pytest.raises(LookupError, match=r"lasts 3\.000 s, none of it"):
        choose(Uniform(2), Timeline([0, 1000], 3000, MS), span)


@pytest.mark.parametrize("time", [-0.1, 3.1, nan, float("inf")])
def test_timestamps_outside_the_video(time):
    with pytest.raises(LookupError, match="outside"):
        choose(At((0.0, time)), Timeline([0, 1000], 3000, MS))
    with pytest.raises(LookupError, match="outside"):
        choose(At((2.5,)), Timeline([0, 1000], 3000, MS), (0.0, 2.0))


def test_timestamps_after_the_end_are_left_out_within_the_slack():
    timeline = Timeline([0, 1000], 3000, MS)
    assert choose(At((0.5, 2.0, 3.1, 4.0), slack=1.0), timeline) == [0, 1]
    with pytest.raises(LookupError, match=r"has no frame at 4\.01 s, outside 0\.0 to 3\.0 s"):
        choose(At((0.5, 4.01), slack=1.0), timeline)


def test_samplings_of_nothing():
    for make in (lambda: Uniform(0), lambda: Rate(0.0), lambda: Rate(nan), lambda: Rate(1.0, 0)):
        with pytest.raises(ValueError, match="give"):
            make()
    assert choose(At(()), steady(3)) == []
