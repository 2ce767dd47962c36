"""Which frames of a video are asked for: pure choice over time stamps, without decoding.

A time stamp is a whole number of ticks. The frame on display at a moment is the last one that
began by then, so a slow or uneven video repeats frames and its time grid is never distorted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

# Matroska rounds time stamps to 1 ms; a frame may have been meant this much earlier.
_MOST_ROUNDING = Fraction(1, 2000)  # s


@dataclass(frozen=True)
class Uniform:
    """Moments evenly spaced from the first to the last frame, both included; one is the first.

    At a constant frame rate, the frames ``trunc(linspace(0, total - 1, frames))`` of the released
    V-LynX code, in exact arithmetic.
    """

    frames: int

    def __post_init__(self) -> None:
        """Refuse what chooses nothing."""
        if self.frames < 1:
            raise ValueError(f"frames={self.frames}; give 1 or more")


@dataclass(frozen=True)
class Rate:
    """A moment every ``1 / fps`` s from the start; if too many, ``Uniform(max_frames)``."""

    fps: float
    max_frames: int | None = None

    def __post_init__(self) -> None:
        """Refuse what chooses nothing."""
        if not 0 < self.fps < float("inf") or (self.max_frames is not None and self.max_frames < 1):
            raise ValueError(f"fps={self.fps}, max_frames={self.max_frames}; give positive numbers")


@dataclass(frozen=True)
class At:
    """These moments, in s.

    Args:
        times: the moments, ascending.
        slack: how much in s the video may end before the last; moments after its end are left out.
    """

    times: tuple[float, ...]
    slack: float = 0


Sampling = Uniform | Rate | At


@dataclass(frozen=True)
class Timeline:
    """When frames are on display.

    Args:
        begins: ticks at which frames begin, at least one, ascending.
        end: tick at which the last leaves.
        tick: s.
    """

    begins: Sequence[int]
    end: int
    tick: Fraction

    def seconds(self, frame: int) -> Fraction:
        """When a frame begins, in s from the first."""
        return (self.begins[frame] - self.begins[0]) * self.tick

    @property
    def duration(self) -> Fraction:
        """In s, from the first frame's begin to the last one's end."""
        return (self.end - self.begins[0]) * self.tick

    def at(self, moment: Fraction) -> int:
        """The frame on display at a moment, in s from the first frame."""
        ticks = (moment + min(self.tick / 2, _MOST_ROUNDING)) / self.tick
        return bisect_right(self.begins, self.begins[0] + ticks) - 1


def choose(
    sampling: Sampling, timeline: Timeline, span: tuple[float, float] | None = None
) -> list[int]:
    """Frames on display at the moments asked for, as positions in the timeline.

    Args:
        sampling: the moments; those of ``At`` lie within the span.
        timeline: of the whole video.
        span: (start, end) in s from the first frame: frames from that on display at the start to
            the last that begins before the end. What lies outside the video is cut off.

    Raises:
        LookupError: the span is empty or outside the video, or a moment is outside of both.
    """
    start, end = _clip(timeline, span)
    first = timeline.at(start)
    ticks = timeline.begins[0] + end / timeline.tick
    # Before the end by more than the clock rounds: the frame at the end belongs to the next span.
    slack = min(Fraction(1, 2), _MOST_ROUNDING / timeline.tick)
    last = max(first, bisect_left(timeline.begins, ticks - slack) - 1)
    match sampling:
        case Rate(fps, max_frames):
            step = 1 / Fraction(fps)
            count = max(1, ceil((end - start - 2 * slack * timeline.tick) / step))
            if max_frames is None or count <= max_frames:
                return [timeline.at(start + k * step) for k in range(count)]
            return _uniform(timeline, first, last, max_frames)
        case Uniform(frames):
            return _uniform(timeline, first, last, frames)
        case At(times, slack_s):
            for time in times:
                if not start <= time <= end + Fraction(slack_s):
                    raise LookupError(
                        f"is asked for {time} s, outside of {float(start)} to {float(end)} s"
                    )
            return [timeline.at(Fraction(time)) for time in times if time <= end]


def _clip(timeline: Timeline, span: tuple[float, float] | None) -> tuple[Fraction, Fraction]:
    if span is None:
        return Fraction(0), timeline.duration
    duration = timeline.duration
    if span[0] < span[1] and span[0] < duration and span[1] > 0:  # False for NaN
        first = Fraction(max(span[0], 0))
        return first, duration if span[1] >= duration else Fraction(span[1])
    raise LookupError(f"lasts {float(duration):.3f} s, nothing of it is within {span} s")


def _uniform(timeline: Timeline, first: int, last: int, frames: int) -> list[int]:
    begins = timeline.begins
    steps, length = last - first, begins[last] - begins[first]
    between = max(frames - 1, 1)
    # At a constant rate the frames are counted: time stamps would add their rounding.
    uneven = max(
        abs(steps * (begins[first + i] - begins[first]) - i * length) for i in range(steps + 1)
    )
    if uneven < max(steps, 1) and 8 * uneven <= length:
        return [first + k * steps // between for k in range(frames)]
    return [
        bisect_right(begins, begins[first] + Fraction(k * length, between)) - 1
        for k in range(frames)
    ]
