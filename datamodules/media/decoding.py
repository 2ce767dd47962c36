"""From packets to frames: decoding starts at the key frames that are needed.

If packets and decoder disagree, everything is decoded; if frames are missing then, it is an error.
A decoder returns frames in display order. If their timestamps do not ascend, because they were
guessed in decoding order (AVI stores none, and copies keep the guesses), the frames are numbered.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from math import lcm
from pathlib import Path
from typing import Any

from datamodules.libraries import import_library
from datamodules.media.container import DAMAGED, Packet, open_media, video_track
from datamodules.media.sampling import Timeline
from datamodules.samples import BadSample

# Not all of their packets show a frame: VP8 has hidden reference frames in packets of their own,
# and MPEG-4 in AVI pads with empty packets.
_HIDING_CODECS = {"vp8", "mpeg4"}
# The most packets by which a frame may be decoded after one shown later (H.264, A.3.1 h: 16).
_MOST_REORDERED = 16


class DoubtError(Exception):
    """The packets do not tell which frames exist."""


def packet_timeline(packets: Sequence[Packet], tick: Fraction) -> Timeline:
    """When the frames of these packets are shown.

    Raises:
        DoubtError: a time is missing or repeated, or the first packet is not a key frame.
    """
    shown = {packet.pts: packet for packet in packets if packet.shown}
    begins = sorted(pts for pts in shown if pts is not None)
    if not begins or len(begins) < sum(p.shown for p in packets) or not packets[0].key:
        raise DoubtError("the packets have no times of their own")
    return _timeline(begins, shown[begins[-1]].duration, tick)


def decode_ranges(
    packets: Sequence[Packet], wanted: set[int], beyond: int = 0
) -> list[tuple[int, int]]:
    """What to decode, as (first, last) packet; each range begins with a key frame.

    A frame decoded after a key frame but shown before it may depend on earlier frames.

    Args:
        packets: all packets in decoding order; the first is a key frame.
        wanted: pts of the wanted frames.
        beyond: packets to decode after a wanted one, to verify that none is shown before it.
    """
    found: list[tuple[int, int]] = []
    keys: list[tuple[int, int]] = []  # (number, pts)
    for number, packet in enumerate(packets):
        if packet.pts is None:
            continue
        if packet.key:
            keys.append((number, packet.pts))
        if packet.pts not in wanted or not packet.shown:
            continue
        first = next((key for key, pts in reversed(keys) if pts <= packet.pts), 0)
        while found and first <= found[-1][1] + 1:
            first = min(first, found.pop()[0])
        found.append((first, min(number + beyond, len(packets) - 1)))
    return found


def decode_wanted(
    file: Any, track: Any, packets: Sequence[Packet], wanted: set[int]
) -> Iterator[Any]:
    """Decode only what the frames with these pts need, and yield those.

    If pts may be guesses, all frames near a wanted one are decoded as well, to verify them.

    Raises:
        DoubtError: the packets or frames differ from the expected ones; frames yielded before are
            invalid.
    """
    numbers = {(packet.pts, packet.size): number for number, packet in enumerate(packets)}
    codec = track.codec_context
    doubtful, references = _may_be_guessed(packets, track), None
    if codec.name == "h264" and not doubtful:
        filter_units = import_library("av").BitStreamFilterContext
        references = filter_units("filter_units=discard=nonref", track)
    if doubtful and _unstamped(packets, track):
        raise DoubtError("AVI stores no presentation timestamps")
    for first, last in decode_ranges(packets, wanted, _MOST_REORDERED if doubtful else 0):
        begin = packets[first].pts or 0
        promised = {p.pts for p in packets[first : last + 1] if p.shown and (p.pts or 0) >= begin}
        at_key, latest, matrix = packets[first].shown, begin, None
        for packet in _seek(file, track, packets, numbers, first, last):
            leaf = references and packet is not None and _is_leaf(packet, references)
            if leaf and packet.pts not in wanted:
                promised.discard(packet.pts)
                continue
            for frame in codec.decode(packet):
                matrix = _oriented(frame, matrix)
                # Frames shown before the key frame depend on frames that were not decoded.
                if frame.pts is not None and frame.pts < begin:
                    continue
                if (
                    frame.pts not in promised
                    or frame.pts < latest
                    or frame.is_corrupt
                    or (at_key and not frame.key_frame)
                ):
                    raise DoubtError(f"frame {frame.pts} came unexpectedly")
                at_key, latest = False, frame.pts
                promised.remove(frame.pts)
                if frame.pts in wanted:
                    yield frame
        if promised:
            raise DoubtError(f"{len(promised)} frames are missing")
    if _may_be_guessed(packets, track) and not doubtful:
        raise DoubtError("the codec turned out to reorder frames")


def _may_be_guessed(packets: Sequence[Packet], track: Any) -> bool:
    """Whether pts may follow the decoding order although the codec reorders frames.

    For MPEG-4 this is never certain: a packet may hold two frames ("packed bitstream" of XviD).
    """
    codec = track.codec_context
    guessed = codec.name == "mpeg4" or _ascends(packets) or _unstamped(packets, track)
    return codec.has_b_frames and guessed


def _ascends(packets: Sequence[Packet]) -> bool:
    """Whether known pts ascend in decoding order although not every frame is a key frame."""
    known = [packet.pts for packet in packets if packet.pts is not None]
    return all(a < b for a, b in pairwise(known)) and not all(packet.key for packet in packets)


def _unstamped(packets: Sequence[Packet], track: Any) -> bool:
    """Whether pts are FFmpeg's guesses for AVI, made initially without knowing of B-frames."""
    guessed = packets[0].pts == packets[0].dts or _ascends(packets)
    return track.container.format.name == "avi" and guessed


def _is_leaf(packet: Any, references: Any) -> bool:
    """Whether no frame depends on this one: FFmpeg's filter of references removes all of it."""
    av = import_library("av")
    try:
        return not references.filter(av.Packet(bytes(packet)))  # a copy: the filter empties it
    except av.FFmpegError:
        return False  # damaged; the decoder reports it


def _seek(
    file: Any,
    track: Any,
    packets: Sequence[Packet],
    numbers: Mapping[tuple[int | None, int], int],
    first: int,
    last: int,
) -> Iterator[Any]:
    """Packets ``first`` to ``last``, then None, which flushes the decoder."""
    start = packets[first].pts if packets[first].dts is None else packets[first].dts
    file.seek(start, stream=track)
    found = file.demux(track)
    head = next(found)
    arrived = numbers.get((head.pts, head.size))
    if arrived is None or arrived > first:
        raise DoubtError("seeking went astray")
    for number, packet in enumerate(chain([head], found), arrived):
        if number > last:
            break
        if (packet.pts, packet.size) != (packets[number].pts, packets[number].size):
            raise DoubtError("seeking went astray")
        if number >= first:
            yield packet
    yield None


def decode_all(path: Path) -> Iterator[Any]:
    """Every frame of a video, from the start.

    Raises:
        BadSample: a frame is damaged.
    """
    matrix = None
    with open_media(path) as file:
        for number, frame in enumerate(file.decode(video_track(path, file))):
            if frame.is_corrupt:
                raise _undecodable(path, number)
            matrix = _oriented(frame, matrix)
            yield frame


def _oriented(frame: Any, before: bytes | None) -> bytes | None:
    """Store a frame's display matrix in ``frame.opaque``, and return it.

    The codec may state it at a key frame for the frames that follow (H.264, D.2.27).
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None or frame.key_frame:
        before = None if matrix is None else bytes(matrix)
    frame.opaque = before
    return before


def decoded_timeline(path: Path, packets: Sequence[Packet], track: Any) -> Timeline:
    """When the frames are shown, after decoding all of them.

    Frames whose timestamps were guessed in decoding order are numbered at the stream's rate.

    Args:
        path: the file.
        packets: the packets of the track.
        track: from ``video_track``.

    Raises:
        BadSample: a frame is damaged, missing or has no time, or the first is not a key frame.
    """
    begins: list[int | None] = []
    hides, duration = track.codec_context.name in _HIDING_CODECS, 0
    for frame in decode_all(path):
        if not begins and not (
            frame.key_frame or (packets[0].key and _may_begin(packets[0], frame))
        ):
            raise _undecodable(path, 0)
        begins.append(frame.pts)
        hides, duration = hides or frame.interlaced_frame, frame.duration
    times = [pts for pts in begins if pts is not None]
    if not times:
        raise BadSample(path, "has no frame that can be decoded", DAMAGED)
    promised = {packet.pts for packet in packets if packet.shown and packet.pts is not None}
    # Frames shown before the first key frame cannot be decoded; two fields make one frame.
    missing = [pts for pts in promised.difference(times) if pts > times[0]]
    if len([pts for pts in missing if pts > max(times)] if hides else missing) > hides:
        raise BadSample(path, f"{len(missing)} of its frames cannot be decoded", DAMAGED)
    guessed = _may_be_guessed(packets, track)
    rate = track.average_rate or track.guessed_rate
    own = len(times) == len(begins) and all(a < b for a, b in pairwise(times))
    own = own and all(packet.pts is not None for packet in packets)
    if guessed and rate and (_unstamped(packets, track) or not own):
        return _numbered(len(begins), min(times), track.time_base, rate)
    for number, pts in enumerate(begins):
        if pts is None or pts < times[max(number - 1, 0)]:
            remedy = "Convert the video, so that every frame has a time"
            raise BadSample(path, f"frame {number} has no time after the previous frame", remedy)
    return _timeline(times, duration, track.time_base)


def _undecodable(path: Path, number: int) -> BadSample:
    return BadSample(path, f"frame {number} cannot be decoded", DAMAGED)


def _may_begin(packet: Packet, frame: Any) -> bool:
    """Whether a frame not marked as key may be the first shown after a key packet.

    An edit list may have cut the key frame away, and some decoders never mark any.
    """
    types = import_library("av.video.frame").PictureType
    return not packet.shown or frame.pict_type in {types.NONE, types.I}


def _numbered(frames: int, first: int, tick: Fraction, rate: Fraction) -> Timeline:
    """Frames at a constant rate, from tick ``first`` on."""
    unit = Fraction(1, lcm(tick.denominator, rate.numerator))  # divides both
    start, step = int(first * tick / unit), int(1 / rate / unit)
    end = start + frames * step
    return Timeline(range(start, end, step), end, unit)


def _timeline(begins: Sequence[int], last_duration: int, tick: Fraction) -> Timeline:
    # If the last frame's duration is unknown, use the mean.
    mean = round((begins[-1] - begins[0]) / max(len(begins) - 1, 1))
    return Timeline(begins, begins[-1] + (last_duration or mean or 1), tick)
