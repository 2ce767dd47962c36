"""Choosing frames of a video by their timestamps, without decoding.

A timestamp is a whole number of ticks. The frame shown at a time is the last one that began by
then: a slow or uneven video repeats frames, and its time grid is never distorted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

# Matroska rounds timestamps to 1 ms; a frame may begin this much earlier.
_MOST_ROUNDING = Fraction(1, 2000)  # s


@dataclass(frozen=True)
class Uniform:
    """Timestamps evenly spaced from the first to the last frame, both included.

    At a constant frame rate these are the frames ``trunc(linspace(0, total - 1, frames))`` of the
    released V-LynX code, in exact arithmetic. A single frame is the first.
    """

    frames: int

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames={self.frames}; give 1 or more")


@dataclass(frozen=True)
class Rate:
    """One timestamp per ``1 / fps`` s from the start; if too many, ``Uniform(max_frames)``."""

    fps: float
    max_frames: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fps < float("inf") or (self.max_frames is not None and self.max_frames < 1):
            raise ValueError(f"fps={self.fps}, max_frames={self.max_frames}; give positive numbers")


@dataclass(frozen=True)
class At:
    """These timestamps, in s.

    Args:
        times: the timestamps, ascending.
        slack: s by which the video may end before the last timestamp; later ones are left out.
    """

    times: tuple[float, ...]
    slack: float = 0


Sampling = Uniform | Rate | At


@dataclass(frozen=True)
class Timeline:
    """When frames are shown.

    Args:
        begins: ticks at which frames begin, at least one, ascending.
        end: tick at which the last frame ends.
        tick: length of a tick in s.
    """

    begins: Sequence[int]
    end: int
    tick: Fraction

    def seconds(self, frame: int) -> Fraction:
        """When a frame begins, in s from the first."""
        return (self.begins[frame] - self.begins[0]) * self.tick

    @property
    def duration(self) -> Fraction:
        """In s, from the start of the first frame to the end of the last."""
        return (self.end - self.begins[0]) * self.tick

    def at(self, timestamp: Fraction) -> int:
        """The frame shown at a timestamp, in s from the first frame."""
        ticks = (timestamp + min(self.tick / 2, _MOST_ROUNDING)) / self.tick
        return bisect_right(self.begins, self.begins[0] + ticks) - 1


def choose(
    sampling: Sampling, timeline: Timeline, span: tuple[float, float] | None = None
) -> list[int]:
    """Indices in the timeline of the frames shown at the requested timestamps.

    Args:
        sampling: the timestamps; those of ``At`` lie within the span.
        timeline: of the whole video.
        span: (start, end) in s from the first frame: from the frame shown at the start to the last
            one that begins before the end. It is clipped to the video.

    Raises:
        LookupError: the span is empty or outside the video, or a timestamp is outside the span.
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
                        f"has no frame at {time} s, outside {float(start)} to {float(end)} s"
                    )
            return [timeline.at(Fraction(time)) for time in times if time <= end]


def _clip(timeline: Timeline, span: tuple[float, float] | None) -> tuple[Fraction, Fraction]:
    if span is None:
        return Fraction(0), timeline.duration
    duration = timeline.duration
    if span[0] < span[1] and span[0] < duration and span[1] > 0:  # False for NaN
        first = Fraction(max(span[0], 0))
        return first, duration if span[1] >= duration else Fraction(span[1])
    raise LookupError(f"lasts {float(duration):.3f} s, none of it within {span} s")


def _uniform(timeline: Timeline, first: int, last: int, frames: int) -> list[int]:
    begins = timeline.begins
    steps, length = last - first, begins[last] - begins[first]
    between = max(frames - 1, 1)
    # At a constant rate, frames are counted, since timestamps would add their rounding.
    uneven = max(
        abs(steps * (begins[first + i] - begins[first]) - i * length) for i in range(steps + 1)
    )
    if uneven < max(steps, 1) and 8 * uneven <= length:
        return [first + k * steps // between for k in range(frames)]
    return [
        bisect_right(begins, begins[first] + Fraction(k * length, between)) - 1
        for k in range(frames)
    ]
