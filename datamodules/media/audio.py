"""Reading the sound of audio files and videos: one channel at 16 kHz, on the clock of the video."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from math import floor, gcd
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.media.channels import NOISE, ChannelMean
from datamodules.media.container import DAMAGED, Packet, list_packets, open_media, video_track
from datamodules.media.sound_headers import mp3_tag
from datamodules.samples import BadSample

SOUND_SUFFIXES: Final = frozenset(
    {".mp3", ".wav", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma"}
)
_RATE = 16_000  # Hz, as in the paper
_SHORTEST = 0.1  # s
# s to decode before a span: MP3 depends on 10 frames of 26 ms, Opus asks for 80 ms.
_PREROLL = Fraction(1, 2)
# s by which times may differ from the count of samples: some muxers round them, or jitter.
_JITTER = Fraction(1, 4)
# Samples per packet, relative to its duration, which WAV rounds for some codecs.
_ROUNDED = Fraction(101, 100)
# The limit of FFmpeg's resampler.
_MOST_CHANNELS = 64
# The largest resampling filter allowed; 44.1 kHz needs 76 000 weights.
_MOST_WEIGHTS = 2**24


class Sound(NamedTuple):
    """One channel at 16 kHz."""

    waveform: Tensor  # float32 (N,), full scale is -1 to 1
    start: float  # s of the first sample, from the first frame of the video, or of the sound


def is_silent(sound: Sound) -> bool:
    """Whether no sample exceeds the noise of 16-bit sound, -84 dB of full scale."""
    return bool((sound.waveform.abs() <= NOISE).all())


def read_sound(path: Path, span: tuple[float, float] | None = None) -> Sound:
    """Read the sound of an audio file or a video; see ``decode_sound``.

    Args:
        path: the file.
        span: (start, end) in s from the first frame of the video, or from the first sample if
            there is no video. None is everything.

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

    All channels are averaged with equal weight, including the six of 5.1 (a film mix would leave
    out the subwoofer and lower the rear), as in the released V-LynX code. Channels that cancel out,
    so that their sum has less than a tenth of their power, are an error. Silence is not.

    Args:
        path: for messages.
        file: an ``av`` container; its position changes.
        packets: the packets of each stream.
        origin: s at which the clock of the span begins; None is the first sample.
        span: (start, end) in s; None is everything.

    Raises:
        BadSample: there is no sound, less than 0.1 s of it, it cannot be decoded, or its mean does
            not represent it (see ChannelMean).
    """
    track = file.streams.best("audio")
    if track is None and file.streams.audio:
        raise BadSample(path, "has a sound track with neither rate nor channels", DAMAGED)
    if track is None:
        remedy = "Give a file with sound, or leave it out"
        raise BadSample(path, "has no sound track", remedy, "no audio")
    if track.codec_context is None:
        raise BadSample(
            path, "is in a sound format that cannot be decoded", "Convert it to AAC or FLAC"
        )
    tick = track.time_base
    listed = [packet.pts * tick for packet in packets[track.index] if packet.pts is not None]
    if not listed:
        raise BadSample(path, "has a sound track without packets", DAMAGED)
    # Encoders add samples before the first; FFmpeg drops them and starts the stream after them.
    opening = min(listed) if track.start_time is None else track.start_time * tick
    clock = opening if origin is None else origin
    promised, form = max(listed), file.format.name
    # In concatenated Ogg streams, each counts from its own start.
    chained = form == "ogg" and any(b < a - _JITTER for a, b in pairwise(listed))
    if chained:
        promised = opening + sum(packet.duration for packet in packets[track.index]) * tick
    begin, end = opening, promised + 1
    if span is not None:
        if not span[0] < span[1]:
            raise _too_short(path, 0)
        begin = max(begin, clock + Fraction(max(span[0], -1e9)))
        end = min(end, clock + Fraction(min(span[1], 1e9)))
    frames = _decode_anew(path, track) if chained else _frames(path, file, track, begin)
    sound = _decode(path, frames, tick, begin, end, chained)
    if sound.reached < min(end, promised) - _JITTER and form != "mp3":
        raise BadSample(path, "has sound that cannot be decoded to its end", DAMAGED)
    if sound.mean.count < _SHORTEST * sound.rate:
        raise _too_short(path, sound.mean.count / sound.rate)
    mono = _resample(torch.from_numpy(sound.mean.waveform(path)), sound.rate)
    return Sound(mono, float(sound.start - clock))


def _frames(path: Path, file: Any, track: Any, begin: Fraction) -> Iterator[Any]:
    """Decoded frames; the first begins at or before ``begin``, in s."""
    head = None
    try:
        file.seek(floor((begin - _PREROLL) / track.time_base), stream=track)
        frames = _decode_packets(path, file, track)
        head = next(frames, None)
    except import_library("av").FFmpegError:
        pass  # opened anew below
    if head is not None and head.pts is not None and head.pts * track.time_base <= begin:
        yield head
        yield from frames
    else:  # seeking went astray
        yield from _decode_anew(path, track)


def _decode_anew(path: Path, track: Any) -> Iterator[Any]:
    with open_media(path) as file:
        yield from _decode_packets(path, file, file.streams[track.index])


def _decode_packets(path: Path, file: Any, track: Any) -> Iterator[Any]:
    """Decoded frames, including those of concatenated files."""
    av, form, decoder = import_library("av"), file.format.name, track.codec_context
    tag_end = 0  # bytes
    for packet in file.demux(track):
        if packet.pos is not None and packet.pos < tag_end:
            continue
        if form == "ogg" and packet.has_sidedata("new_extradata"):  # FFmpeg's Vorbis keeps the old
            yield from decoder.decode(None)
            decoder = av.CodecContext.create(decoder.name, "r")
            decoder.extradata = bytes(packet.get_sidedata("new_extradata"))
        samples, room = 0, Fraction(packet.duration or 0) * track.time_base
        try:
            for frame in decoder.decode(packet):
                samples += frame.samples
                # A decoder may give several frames per packet, and some at the end. More than the
                # packet states mean that FFmpeg has joined packets around damage.
                if frame.pts is None and packet.size:
                    full = room and samples > _ROUNDED * room * frame.sample_rate
                    if full or packet.pts is None:
                        raise BadSample(path, "has a packet of sound without a time", DAMAGED)
                if tag_end:
                    frame.pts = None  # FFmpeg counts the packets of tags as well
                yield frame
        except av.InvalidDataError:
            length = mp3_tag(bytes(packet)) if form == "mp3" else 0
            if not length:
                raise
            tag_end = packet.pos + length


class _Decoded(NamedTuple):
    mean: ChannelMean  # of the requested part
    start: Fraction  # s of its first sample
    reached: Fraction  # s of the end of what was decoded
    rate: int  # Hz


def _decode(
    path: Path,
    frames: Iterator[Any],
    tick: Fraction,
    begin: Fraction,
    end: Fraction,
    chained: bool,
) -> _Decoded:
    """Average channels from ``begin`` to ``end`` in s; a frame without a time follows the last."""
    # Packed, since PyAV cannot extract planes of more than 7 channels from a frame.
    convert = import_library("av").AudioResampler(format="flt")
    mean, form = ChannelMean(1), None
    first, lag, rate, count, skip, stop = Fraction(0), Fraction(0), 1, 0, 0, 0
    for frame in frames:
        if frame.is_corrupt or (frame.pts is None and form is None):
            raise BadSample(path, f"has broken sound after {count} samples", DAMAGED)
        own_form = (frame.sample_rate, frame.layout.name, frame.format.name)
        if form is None:
            form, first, rate = own_form, frame.pts * tick, frame.sample_rate
            channels = frame.layout.nb_channels
            if not 0 < _weights(rate) <= _MOST_WEIGHTS:
                remedy = "Convert it to 44.1 or 48 kHz"
                raise BadSample(path, f"has {rate} samples per second", remedy)
            if channels > _MOST_CHANNELS:
                reason = f"has {channels} channels; 1 to {_MOST_CHANNELS} are read"
                remedy = "Mix them to fewer channels: ffmpeg -i IN -ac 2 OUT"
                raise BadSample(path, reason, remedy)
            mean = ChannelMean(channels)
            skip, stop = (max(0, round((time - first) * rate)) for time in (begin, end))
        if own_form != form:
            raise BadSample(path, "changes its rate or channels midway", "Convert its sound")
        if frame.pts is not None:
            gap = frame.pts * tick + lag - first - Fraction(count, rate)
            if chained and gap < -_JITTER:  # another stream begins
                lag, gap = lag - gap, Fraction(0)
            if abs(gap) > _JITTER:
                reason = f"has sound {float(gap):.2f} s off its time at {count / rate:.2f} s"
                raise BadSample(path, reason, DAMAGED)
        low, high = max(skip - count, 0), max(stop - count, 0)
        for part in convert.resample(frame):
            mean.add(part.to_ndarray().reshape(frame.samples, -1)[low:high])
        count += frame.samples
        if first + Fraction(count, rate) >= end:
            break
    return _Decoded(mean, first + Fraction(skip, rate), first + Fraction(count, rate), rate)


def _weights(rate: int) -> int:
    """Approximate size of torchaudio's resampling filter."""
    common = gcd(rate, _RATE)
    return (_RATE // common) * (rate // common)


def _resample(waveform: Tensor, rate: int) -> Tensor:
    resampled: Tensor = import_library("torchaudio.functional").resample(waveform, rate, _RATE)
    return resampled


def _too_short(path: Path, seconds: float) -> BadSample:
    reason = f"has {seconds:.3f} s of sound there; at least {_SHORTEST} s are needed"
    return BadSample(path, reason, "Correct the span, or leave the file out", "too short")
