"""Frames of a video, and its sound, read together: one opening, one pass, only what is asked for.

Frames are chosen by the times of the packets, before anything is decoded; each picture is reduced
as it comes out of the decoder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from datamodules.libraries import import_library
from datamodules.media.audio import Sound, decode_sound
from datamodules.media.container import list_packets, open_media, video_track
from datamodules.media.decoding import (
    DoubtError,
    decode_all,
    decode_wanted,
    decoded_timeline,
    packet_timeline,
)
from datamodules.media.display import rgb_converter
from datamodules.media.images import read_colour
from datamodules.media.sampling import At, Rate, Sampling, Timeline, Uniform, choose
from datamodules.samples import BadSample, Frames

__all__ = [
    "VIDEO_SUFFIXES",
    "At",
    "Frames",
    "Rate",
    "Recording",
    "Request",
    "Sampling",
    "Uniform",
    "read_video",
]

VIDEO_SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".mpg", ".mpeg"}
    | {".ts", ".ogv", ".gif"}
)
_PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Request:
    """Frames to read from a video.

    Args:
        sampling: which.
        size: (H, W) to squash each to, antialiased bicubic; None leaves them as stored.
    """

    sampling: Sampling
    size: tuple[int, int] | None = None


class Recording(NamedTuple):
    """What was asked for of a video."""

    streams: tuple[Frames, ...]  # one a request
    sound: Sound | None


# Frame numbers → those frames, each once, as (number, uint8 (3, H, W)).
_Pictures = Callable[[set[int]], Iterable[tuple[int, Tensor]]]


def read_video(
    path: Path,
    requests: Sequence[Request],
    span: tuple[float, float] | None = None,
    sound: bool = False,
    folder_fps: float | None = None,
) -> Recording:
    """Read frames, for several purposes at once, and the sound.

    Times are in s from the first frame of the video; each frame comes with the one at which it
    begins, and comes again where it stays on display. Quarter turns and reflections that
    the file asks for are applied. Colours are converted by the matrix and range that it names;
    where it names none, as BT.601 in limited range, which is FFmpeg's habit.

    Args:
        path: a video file, or a folder of numbered pictures.
        requests: the frames.
        span: (start, end) in s from the first frame; None is the whole video.
        sound: whether to read the sound of the span, too.
        folder_fps: pictures a second, of a folder.

    Raises:
        BadSample: the file is missing, no video or damaged, the frames asked for lie outside of it,
            or it has no sound.
    """
    if path.is_dir():
        return _read_folder(path, requests, span, sound, folder_fps)
    with open_media(path) as file:
        track = video_track(path, file)
        if track is None:
            raise BadSample(path, "has no video track", "Give a video; cover art is none")
        packets = list_packets(path, file)
        try:
            timeline = packet_timeline(packets[track.index], track.time_base)

            def seek(wanted: set[int]) -> Iterator[tuple[int, Tensor]]:
                numbers = {timeline.begins[number]: number for number in wanted}
                draw = rgb_converter(path)
                for frame in decode_wanted(file, track, packets[track.index], set(numbers)):
                    yield numbers[frame.pts], draw(frame)

            streams = _gather(path, requests, timeline, span, seek)
        except (DoubtError, import_library("av").FFmpegError):
            timeline = decoded_timeline(path, packets[track.index], track)
            streams = _gather(path, requests, timeline, span, lambda wanted: _play(path, wanted))
        heard = None
        if sound:
            heard = decode_sound(path, file, packets, timeline.begins[0] * timeline.tick, span)
    return Recording(streams, heard)


def _play(path: Path, wanted: set[int]) -> Iterator[tuple[int, Tensor]]:
    draw = rgb_converter(path)
    for number, frame in enumerate(islice(decode_all(path), max(wanted, default=-1) + 1)):
        if number in wanted:
            yield number, draw(frame)


def _gather(
    path: Path,
    requests: Sequence[Request],
    timeline: Timeline,
    span: tuple[float, float] | None,
    read: _Pictures,
) -> tuple[Frames, ...]:
    """Choose the frames, read each once, and put it, reduced, wherever it is asked for."""
    try:
        chosen = [choose(request.sampling, timeline, span) for request in requests]
    except LookupError as error:
        remedy = "Correct the span or the moments; they count in s from the first frame"
        raise BadSample(path, str(error), remedy, "too short") from error
    stacks = [
        torch.empty(0, 3, *(request.size or (0, 0)), dtype=torch.uint8) for request in requests
    ]
    for number, picture in read({number for numbers in chosen for number in numbers}):
        for i, (request, numbers) in enumerate(zip(requests, chosen, strict=True)):
            if number not in numbers:
                continue
            small = picture
            if request.size is not None:
                small = resize(
                    picture, list(request.size), InterpolationMode.BICUBIC, antialias=True
                )
            if not len(stacks[i]):
                stacks[i] = torch.empty(len(numbers), *small.shape, dtype=torch.uint8)
            if small.shape != stacks[i].shape[1:]:
                (_, h, w), (_, now_h, now_w) = stacks[i].shape[1:], small.shape
                remedy = "Ask for frames of one size, or convert the video"
                raise BadSample(path, f"changes from {w}x{h} to {now_w}x{now_h} pixels", remedy)
            stacks[i][[place for place, other in enumerate(numbers) if other == number]] = small
    return tuple(
        Frames(stack, tuple(float(timeline.seconds(number)) for number in numbers))
        for stack, numbers in zip(stacks, chosen, strict=True)
    )


def _read_folder(
    folder: Path,
    requests: Sequence[Request],
    span: tuple[float, float] | None,
    sound: bool,
    fps: float | None,
) -> Recording:
    if sound:
        raise BadSample(folder, "is a folder of pictures", "Give a video with sound", "no audio")
    if fps is None:
        remedy = "Give the video; of a folder of numbered pictures, folder_fps, such as 3.0"
        raise BadSample(folder, "is a folder, not a video file", remedy)
    if not fps > 0:
        raise BadSample(
            folder, f"is read at folder_fps={fps}", "Give the rate of its pictures, such as 3.0"
        )
    pictures = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _PICTURE_SUFFIXES and not path.name.startswith(".")
    ]
    if strange := [path for path in pictures if not path.stem.isdecimal()]:
        raise BadSample(strange[0], "is not named by a number", "Rename it, such as 00001.jpg")
    pictures.sort(key=lambda path: int(path.stem))
    numbers = [int(path.stem) for path in pictures]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
        reason = f"lacks pictures, the first is number {missing[0]}" if missing else "no pictures"
        raise BadSample(folder, reason, "Extract the folder again; numbers follow each other")
    timeline = Timeline(range(len(pictures)), len(pictures), 1 / Fraction(fps))
    return Recording(
        _gather(
            folder,
            requests,
            timeline,
            span,
            lambda wanted: (
                (number, read_colour(pictures[number], upright=True)) for number in sorted(wanted)
            ),
        ),
        None,
    )
