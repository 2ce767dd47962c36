"""Reading frames of a video and its sound together: one opening, one pass, only what is requested.

Frames are chosen by the times of the packets, before anything is decoded; each frame is resized
as it leaves the decoder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
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
from datamodules.media.sampling import Sampling, Timeline, choose
from datamodules.samples import BadSample, Frames

VIDEO_SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".mpg", ".mpeg"}
    | {".ts", ".ogv", ".gif"}
)
IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True)
class Request:
    """Frames to read from a video.

    Args:
        sampling: which frames.
        size: (H, W) to resize each to, ignoring its aspect ratio (antialiased bicubic); None keeps
            the stored size.
    """

    sampling: Sampling
    size: tuple[int, int] | None = None


class Recording(NamedTuple):
    """What was read from a video."""

    streams: tuple[Frames, ...]  # one per request
    sound: Sound | None


# Frame numbers → those frames, each once, as (number, uint8 (3, H, W)).
_Read = Callable[[set[int]], Iterable[tuple[int, Tensor]]]


def read_video(
    path: Path,
    requests: Sequence[Request],
    span: tuple[float, float] | None = None,
    sound: bool = False,
    folder_fps: float | None = None,
) -> Recording:
    """Read the frames of several requests at once, and the sound.

    Times are in s from the first frame of the video. Each frame comes with the time at which it
    begins, and is repeated while it stays on display. The quarter turns and reflections that the
    file states are applied. Colours are converted by the matrix and range that it states; by
    default, like FFmpeg, by BT.601 in limited range.

    Args:
        path: a video file, or a folder of numbered images.
        requests: the frames.
        span: (start, end) in s from the first frame; None is the whole video.
        sound: whether to read the sound of the span as well.
        folder_fps: images per second of a folder.

    Raises:
        BadSample: the file is missing, damaged or not a video, the requested frames lie outside
            it, or it has no sound.
    """
    if path.is_dir():
        return _read_folder(path, requests, span, sound, folder_fps)
    with open_media(path) as file:
        track = video_track(path, file)
        if track is None:
            raise BadSample(path, "has no video track", "Give a video; cover art does not count")
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
            read_all = partial(_decode_from_start, path)
            streams = _gather(path, requests, timeline, span, read_all)
        origin = timeline.begins[0] * timeline.tick
        heard = decode_sound(path, file, packets, origin, span) if sound else None
    return Recording(streams, heard)


def _decode_from_start(path: Path, wanted: set[int]) -> Iterator[tuple[int, Tensor]]:
    draw = rgb_converter(path)
    for number, frame in enumerate(islice(decode_all(path), max(wanted, default=-1) + 1)):
        if number in wanted:
            yield number, draw(frame)


def _gather(
    path: Path,
    requests: Sequence[Request],
    timeline: Timeline,
    span: tuple[float, float] | None,
    read: _Read,
) -> tuple[Frames, ...]:
    """Choose the frames, read each once, and resize it for every request that has it."""
    try:
        chosen = [choose(request.sampling, timeline, span) for request in requests]
    except LookupError as error:
        remedy = "Correct the span or the timestamps; they count in s from the first frame"
        raise BadSample(path, str(error), remedy, "too short") from error
    stacks = [
        torch.empty(0, 3, *(request.size or (0, 0)), dtype=torch.uint8) for request in requests
    ]
    for number, frame in read({number for numbers in chosen for number in numbers}):
        for i, (request, numbers) in enumerate(zip(requests, chosen, strict=True)):
            if number not in numbers:
                continue
            small = frame
            if request.size is not None:
                size = list(request.size)
                small = resize(frame, size, InterpolationMode.BICUBIC, antialias=True)
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
        raise BadSample(folder, "is a folder of images", "Give a video with sound", "no audio")
    if fps is None:
        remedy = "Give a video, or folder_fps of a folder of numbered images, such as 3.0"
        raise BadSample(folder, "is a folder, not a video file", remedy)
    if not fps > 0:
        remedy = "Give the rate of its images, such as 3.0"
        raise BadSample(folder, f"is read at folder_fps={fps}", remedy)
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    images = [path for path in visible if path.suffix.lower() in IMAGE_SUFFIXES]
    if strange := [path for path in images if not path.stem.isdecimal()]:
        raise BadSample(strange[0], "is not named by a number", "Rename it, such as 00001.jpg")
    images.sort(key=lambda path: int(path.stem))
    numbers = [int(path.stem) for path in images]
    if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        missing = sorted(set(range(numbers[0], numbers[-1])) - set(numbers)) if numbers else []
        reason = f"lacks images, the first is number {missing[0]}" if missing else "holds no images"
        raise BadSample(folder, reason, "Extract the folder again; numbers must be consecutive")
    timeline = Timeline(range(len(images)), len(images), 1 / Fraction(fps))

    def read(wanted: set[int]) -> Iterator[tuple[int, Tensor]]:
        for number in sorted(wanted):
            yield number, read_colour(images[number], upright=True)

    return Recording(_gather(folder, requests, timeline, span, read), None)
