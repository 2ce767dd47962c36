"""Sound of audio files and videos: one channel at 16 kHz, on the clock of the video."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import floor, gcd
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.media.container import DAMAGED, Packet, list_packets, open_media, video_track
from datamodules.samples import BadSample

SOUND_SUFFIXES: Final = frozenset(
    {".mp3", ".wav", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma"}
)
_RATE = 16_000  # Hz, of the paper
_SHORTEST = 0.1  # s
# Two steps of 16-bit sound, which is as far as dither alone goes.
_NOISE = 2 / 32768
# s to decode before a span: MP3 leans on 10 frames of 26 ms, Opus asks for 80 ms.
_PREROLL = Fraction(1, 2)
# s by which times may leave the count of samples: those of some muxers are rounded or jitter.
_JITTER = Fraction(1, 4)
# Weights of the resampling filter that are afforded; 44.1 kHz needs 76 000.
_MOST_WEIGHTS = 2**24


class Sound(NamedTuple):
    """One channel at 16 kHz."""

    waveform: Tensor  # float32 (N,), full scale is -1 to 1
    start: float  # s of the first sample, from the first frame of the video or else of the sound


def is_silent(sound: Sound) -> bool:
    """Whether nothing is louder than the noise of 16-bit sound, -84 dB of full scale."""
    return bool((sound.waveform.abs() <= _NOISE).all())


def read_sound(path: Path, span: tuple[float, float] | None = None) -> Sound:
    """Read the sound of an audio file or a video; see ``decode_sound``.

    Args:
        path: the file.
        span: (start, end) in s from the first frame of the video; where there is none, from the
            first sample. None is everything.

    Raises:
        BadSample: the file is missing or damaged, has no sound, or less than 0.1 s of it.
    """
    with open_media(path) as file:
        track = video_track(path, file)
        packets = list_packets(path, file)
        origin = None
        if track is not None:
            times = [p.pts for p in packets[track.index] if p.shown and p.pts is not None]
            origin = min(times) * track.time_base if times else None
        return decode_sound(path, file, packets, origin, span)


def decode_sound(
    path: Path,
    file: Any,
    packets: Mapping[int, Sequence[Packet]],
    origin: Fraction | None,
    span: tuple[float, float] | None = None,
) -> Sound:
    """Decode the best sound track of an open file.

    Channels are averaged, all alike, also the six of 5.1 (a film mix would leave out the subwoofer
    and lower the rear): the released V-LynX code does so. A silent track is returned as it is.

    Args:
        path: for messages.
        file: an ``av`` container; reading goes on elsewhere afterwards.
        packets: of each of its streams.
        origin: s at which the clock of the span begins; None is the first sample.
        span: (start, end) in s; None is everything.

    Raises:
        BadSample: there is no sound, less than 0.1 s of it, or it cannot be decoded.
    """
    track = file.streams.best("audio")
    if track is None and file.streams.audio:
        raise BadSample(path, "has a sound track with neither rate nor channels", DAMAGED)
    if track is None:
        remedy = "Give a file with sound, or leave it out"
        raise BadSample(path, "has no sound track", remedy, "no audio")
    if track.codec_context is None:
        raise BadSample(path, "is in a sound format without decoder", "Convert it to AAC or FLAC")
    tick = track.time_base
    listed = [packet.pts * tick for packet in packets[track.index] if packet.pts is not None]
    if not listed:
        raise BadSample(path, "has a sound track without a packet", DAMAGED)
    # Encoders add samples before the first; FFmpeg drops them and lets the stream start after.
    opening = min(listed) if track.start_time is None else track.start_time * tick
    clock = opening if origin is None else origin
    begin, end = opening, max(listed) + 1
    if span is not None:
        if not span[0] < span[1]:
            raise _too_short(path, 0)
        begin = max(begin, clock + Fraction(max(span[0], -1e9)))
        end = min(end, clock + Fraction(min(span[1], 1e9)))
    waveform, first, rate = _decode(path, _frames(path, file, track, begin), tick, end)
    if first + Fraction(len(waveform), rate) < min(end, max(listed)) - _JITTER:
        raise BadSample(path, "has sound that cannot be decoded to its end", DAMAGED)
    skip = max(0, round((begin - first) * rate))
    waveform = waveform[skip : max(0, round((end - first) * rate))]
    if len(waveform) < _SHORTEST * rate:
        raise _too_short(path, len(waveform) / rate)
    mono = _resample(torch.from_numpy(waveform), rate)
    return Sound(mono, float(first + Fraction(skip, rate) - clock))


def _frames(path: Path, file: Any, track: Any, begin: Fraction) -> Iterator[Any]:
    """Decoded frames, the first of which begins by ``begin``, in s."""
    head = None
    try:
        file.seek(floor((begin - _PREROLL) / track.time_base), stream=track)
        frames = file.decode(track)
        head = next(frames, None)
    except import_library("av").FFmpegError:
        pass  # opened anew below
    if head is not None and head.pts is not None and head.pts * track.time_base <= begin:
        yield head
        yield from frames
    else:  # seeking went astray
        with open_media(path) as anew:
            yield from anew.decode(anew.streams[track.index])


def _decode(
    path: Path, frames: Iterator[Any], tick: Fraction, end: Fraction
) -> tuple[NDArray[np.float32], Fraction, int]:
    """The mean of the channels up to ``end`` at least, the time of its first sample, its rate."""
    convert = import_library("av").AudioResampler(format="fltp")
    pieces: list[NDArray[np.float32]] = []
    first, form, count = Fraction(0), (1, 0), 0
    for frame in frames:
        if frame.pts is None or frame.is_corrupt:
            raise BadSample(path, f"has broken sound after {count} samples", DAMAGED)
        if not pieces:
            first, form = frame.pts * tick, (frame.sample_rate, frame.layout.nb_channels)
            if not 0 < _weights(form[0]) <= _MOST_WEIGHTS:
                remedy = "Convert it to 44.1 or 48 kHz"
                raise BadSample(path, f"has {form[0]} samples a second", remedy)
        if (frame.sample_rate, frame.layout.nb_channels) != form:
            raise BadSample(path, "changes its rate or channels midway", "Convert its sound")
        gap = frame.pts * tick - first - Fraction(count, form[0])
        if abs(gap) > _JITTER:
            at = float(count / form[0])
            raise BadSample(
                path, f"has sound {float(gap):.2f} s off its time at {at:.2f} s", DAMAGED
            )
        pieces.extend(part.to_ndarray().mean(0) for part in convert.resample(frame))
        count += frame.samples
        if first + Fraction(count, form[0]) >= end:
            break
    waveform = np.concatenate([np.zeros(0, np.float32), *pieces])
    if not np.isfinite(waveform).all():
        raise BadSample(path, "has sound that is no number", DAMAGED)
    return waveform, first, form[0]


def _weights(rate: int) -> int:
    """About how many weights torchaudio's resampling filter has."""
    common = gcd(rate, _RATE)
    return (_RATE // common) * (rate // common)


def _resample(waveform: Tensor, rate: int) -> Tensor:
    resampled: Tensor = import_library("torchaudio.functional").resample(waveform, rate, _RATE)
    return resampled


def _too_short(path: Path, seconds: float) -> BadSample:
    reason = f"has {seconds:.3f} s of sound there, {_SHORTEST} s are needed"
    return BadSample(path, reason, "Correct the span, or leave the file out", "too short")
