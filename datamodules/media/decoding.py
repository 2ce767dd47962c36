"""From packets to pictures: decoding starts at the key frames that are needed.

Where packets and decoder disagree, everything is decoded; where that isn't whole, it is an error.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.libraries import import_library
from datamodules.media.container import DAMAGED, Packet, open_media, video_track
from datamodules.media.sampling import Timeline
from datamodules.samples import BadSample

# Not every packet of theirs shows a picture: VP8 keeps hidden reference frames in packets of their
# own, and MPEG-4 in AVI pads with empty ones.
_HIDING_CODECS = {"vp8", "mpeg4"}


class DoubtError(Exception):
    """The packets don't tell which frames there are."""


def packet_timeline(packets: Sequence[Packet], tick: Fraction) -> Timeline:
    """When the frames of these packets are shown.

    Raises:
        DoubtError: a time is missing or there twice, or the first is no key frame.
    """
    shown = {packet.pts: packet for packet in packets if packet.shown}
    begins = sorted(pts for pts in shown if pts is not None)
    if not begins or len(begins) < sum(p.shown for p in packets) or not packets[0].key:
        raise DoubtError("the packets have no times of their own")
    return _timeline(begins, shown[begins[-1]].duration, tick)


def stretches(packets: Sequence[Packet], wanted: set[int]) -> list[tuple[int, int]]:
    """What to decode, as (first, last) packet, each beginning with a key frame.

    A frame that is decoded after a key frame but shown before it may lean on what came earlier.

    Args:
        packets: all packets in order of decoding; the first is a key frame.
        wanted: pts of the frames to be shown.
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
        found.append((first, number))
    return found


def decode_wanted(
    file: Any, track: Any, packets: Sequence[Packet], wanted: set[int]
) -> Iterator[Any]:
    """Decode no more than is needed for the frames with these pts; gives those.

    Raises:
        DoubtError: the file gives other packets, or the decoder other frames, than were promised;
            what came until then is void.
    """
    numbers = {(packet.pts, packet.size): number for number, packet in enumerate(packets)}
    prefix = _prefix(track.codec_context)
    for first, last in stretches(packets, wanted):
        begin = packets[first].pts or 0
        promised = {p.pts for p in packets[first : last + 1] if p.shown and (p.pts or 0) >= begin}
        at_key = packets[first].shown
        for packet in _seek(file, track, packets, numbers, first, last):
            if packet is not None and packet.pts not in wanted and _is_leaf(packet, prefix):
                promised.discard(packet.pts)
                continue
            for frame in track.codec_context.decode(packet):
                # What is shown before the key frame leans on frames that were not decoded.
                if frame.pts is not None and frame.pts < begin:
                    continue
                if (
                    frame.pts not in promised
                    or frame.is_corrupt
                    or (at_key and not frame.key_frame)
                ):
                    raise DoubtError(f"frame {frame.pts} came unexpectedly")
                at_key = False
                promised.remove(frame.pts)
                if frame.pts in wanted:
                    yield frame
        if promised:
            raise DoubtError(f"{len(promised)} frames did not come")


def _prefix(codec: Any) -> int:
    """Bytes before each unit of an H.264 packet that say its length; 0 if they aren't so kept."""
    setup = codec.extradata or b""
    # avcC, ISO/IEC 14496-15, 5.3.3.1
    return (setup[4] & 3) + 1 if codec.name == "h264" and len(setup) > 4 and setup[0] == 1 else 0


def _is_leaf(packet: Any, prefix: int) -> bool:
    """Whether no frame leans on this one: all H.264 slices with nal_ref_idc 0 (H.264, 7.4.1)."""
    units = memoryview(packet)
    at, leaf = 0, False
    while prefix and at + prefix < len(units):
        head = units[at + prefix]
        if 1 <= head & 31 <= 5:
            if head >> 5 & 3:
                return False
            leaf = True
        at += prefix + int.from_bytes(units[at : at + prefix], "big")
    return leaf and at == len(units)  # else it is damaged, which the decoder shall tell


def _seek(
    file: Any,
    track: Any,
    packets: Sequence[Packet],
    numbers: Mapping[tuple[int | None, int], int],
    first: int,
    last: int,
) -> Iterator[Any]:
    """Packets ``first`` to ``last``, then None, which asks a decoder for what it holds back."""
    moment = packets[first].pts if packets[first].dts is None else packets[first].dts
    file.seek(moment, stream=track)
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
        BadSample: a frame is damaged, or the first is no key frame.
    """
    with open_media(path) as file:
        for number, frame in enumerate(file.decode(video_track(path, file))):
            if frame.is_corrupt or (number == 0 and not frame.key_frame):
                raise BadSample(path, f"frame {number} cannot be decoded", DAMAGED)
            yield frame


def decoded_timeline(path: Path, packets: Sequence[Packet], tick: Fraction, codec: str) -> Timeline:
    """When the frames are shown that come out of the decoder, all of them.

    Raises:
        BadSample: a frame is damaged, lacks a time, or doesn't come although a packet promises it.
    """
    begins: list[int] = []
    hides, duration = codec in _HIDING_CODECS, 0
    for frame in decode_all(path):
        if frame.pts is None or begins[-1:] > [frame.pts]:
            remedy = "Convert the video, so that every frame has its time"
            raise BadSample(path, f"frame {len(begins)} has no time after the last one's", remedy)
        begins.append(frame.pts)
        hides, duration = hides or frame.interlaced_frame, frame.duration
    if not begins:
        raise BadSample(path, "has no frame that can be decoded", DAMAGED)
    promised = {packet.pts for packet in packets if packet.shown and packet.pts is not None}
    # What is shown before the first key frame cannot be decoded; a field has its frame's picture.
    missing = [pts for pts in promised.difference(begins) if pts > begins[0]]
    if len([pts for pts in missing if pts > begins[-1]] if hides else missing) > hides:
        raise BadSample(path, f"{len(missing)} of its frames cannot be decoded", DAMAGED)
    return _timeline(begins, duration, tick)


def painter() -> Callable[[Any], Tensor]:
    """A conversion of decoded frames, upright, to uint8 (3, H, W) in RGB."""
    # One context serves all frames; FFmpeg's default, as the released V-LynX code converts.
    convert = import_library("av.video.reformatter").VideoReformatter()

    def draw(frame: Any) -> Tensor:
        rows = convert.reformat(frame, format="rgb24").to_ndarray()  # (H, W, 3)
        upright = np.rot90(rows, round(frame.rotation / 90))
        return torch.from_numpy(np.ascontiguousarray(upright)).permute(2, 0, 1)

    return draw


def _timeline(begins: Sequence[int], last_duration: int, tick: Fraction) -> Timeline:
    # Where the last frame's duration is unknown, the mean one.
    mean = round((begins[-1] - begins[0]) / max(len(begins) - 1, 1))
    return Timeline(begins, begins[-1] + (last_duration or mean or 1), tick)
