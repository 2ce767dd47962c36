"""Opening media files, and listing their packets without decoding them.

Only local files of known container formats are opened, so that no file can make FFmpeg open
another. The packets found are compared with what the file's own tables state.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.libraries import import_library
from datamodules.media.sound_headers import asf_size, mp3_frames, wav_is_endless
from datamodules.samples import BadSample

# FFmpeg's names of containers. No playlists (hls, dash, concat), which name other files, and no
# images.
_FORMATS = "mov,matroska,avi,flv,asf,mpeg,mpegts,ogg,gif,mp3,wav,flac,aac,aiff"
# 8192 x 8192, twice the area of 8K video; such a frame takes 200 MB.
_MOST_PIXELS = 2**26
# 9 h at 60 frames per second.
_MOST_PACKETS = 2**21
# Formats whose header states the duration; for others, FFmpeg guesses it.
_SAYS_DURATION = {"matroska,webm", "avi", "flv", "wav", "flac"}
# s by which the duration may be off, in addition to two packets.
_DURATION_TOLERANCE = Fraction(1, 4)
# More threads hold more frames and are no faster on the cores of a loader's worker.
_THREADS = 4
DAMAGED = "Copy or download the file again; it is damaged or cut off"


class Packet(NamedTuple):
    """A compressed frame; times in ticks."""

    pts: int | None  # of presentation
    dts: int | None  # of decoding
    size: int  # bytes
    duration: int
    key: bool  # can be decoded without earlier ones
    shown: bool  # False if an edit list cuts it away


@contextmanager
def open_media(path: Path) -> Iterator[Any]:
    """Yield an open ``av`` container.

    Raises:
        BadSample: the file is missing, damaged, or not video or sound in a known format; errors
            that FFmpeg raises in the block are included.
    """
    av = import_library("av")
    if not path.exists():
        raise BadSample(path, "is missing", "Download it, or correct the root", "missing")
    if not path.is_file():
        reason = "is a folder, not a file" if path.is_dir() else "is not a file"
        raise BadSample(path, reason, "Give a video or sound file")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": _FORMATS,
        "max_pixels": str(_MOST_PIXELS),
    }
    try:
        # `file:` keeps a name such as concat:a|b or http: from being read as a protocol.
        with av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace") as file:
            yield file
    except av.FFmpegError as error:
        reason = f"cannot be read as video or sound ({error.strerror})"
        raise BadSample(path, reason, DAMAGED) from error


def video_track(path: Path, container: Any) -> Any | None:
    """The video stream that FFmpeg ranks best, ready for decoding, without counting cover art.

    Raises:
        BadSample: it cannot be decoded, or its frames are empty or absurdly large.
    """
    still = import_library("av.stream").Disposition
    no_video = still.attached_pic | still.timed_thumbnails
    tracks = [track for track in container.streams.video if not track.disposition & no_video]
    if not tracks:
        return None
    best = container.streams.best("video")
    track = best if best in tracks else tracks[0]
    codec = track.codec_context
    if codec is None:
        raise BadSample(path, "is in a video format that cannot be decoded", "Convert it to H.264")
    if not 0 < codec.width * codec.height <= _MOST_PIXELS:
        raise BadSample(
            path,
            f"claims frames of {codec.width}x{codec.height}; 1 to {_MOST_PIXELS} pixels are read",
            DAMAGED,
        )
    codec.options = {"max_pixels": str(_MOST_PIXELS)}  # in case the size changes
    track.thread_type, track.thread_count = "AUTO", _THREADS
    return track


def list_packets(path: Path, container: Any) -> dict[int, list[Packet]]:
    """The packets of each stream, by its index, in order of decoding; nothing is decoded.

    Args:
        path: for messages.
        container: newly opened; it is read to its end.

    Raises:
        BadSample: the file is cut off, holds broken packets, or too many.
    """
    packets: dict[int, list[Packet]] = {stream.index: [] for stream in container.streams}
    form, start = container.format.name, None
    # Without a length in the header, FFmpeg reports the shorter last packet as corrupt.
    endless = form == "wav" and wav_is_endless(path)
    for packet in _demux(path, container):
        if not packet.size and packet.dts is None and packet.pts is None:
            continue  # PyAV's marker of the end of a stream
        listed = packets[packet.stream_index]
        start = packet.pos if start is None and packet.stream_index == 0 else start
        if (packet.is_corrupt and not endless) or len(listed) == _MOST_PACKETS:
            what = "is broken" if packet.is_corrupt else "exceeds the limit"
            raise BadSample(path, f"packet {len(listed)} of a stream {what}", DAMAGED)
        duration, shown = packet.duration or 0, not packet.is_discard
        listed.append(
            Packet(packet.pts, packet.dts, packet.size, duration, packet.is_keyframe, shown)
        )
    if form.startswith("mov"):
        _check_boxes(path)
        _check_count(path, container, packets)
    elif form in _SAYS_DURATION and not endless:
        _check_duration(path, container, packets)
    elif form == "asf" and (missing := asf_size(path) - path.stat().st_size) > 0:
        raise BadSample(path, f"is cut off: it lacks {missing} bytes", DAMAGED)
    elif form == "mp3" and len(packets[0]) + 1 < (promised := mp3_frames(path, start or 0)):
        # Some encoders also count the frame that states the number.
        reason = f"holds {len(packets[0])} of the {promised} frames that its header states"
        remedy = f"{DAMAGED}. If you cut it yourself, ffmpeg -i IN -c copy OUT writes a new header"
        raise BadSample(path, reason, remedy)
    return packets


def _demux(path: Path, container: Any) -> Iterator[Any]:
    try:
        yield from container.demux()
    except IndexError as error:  # PyAV raises it when FFmpeg finds another stream later
        reason, remedy = "has a stream that its header does not announce", "Convert it to MP4"
        raise BadSample(path, reason, remedy) from error


def _check_boxes(path: Path) -> None:
    """Check that no box of an MP4 ends beyond the file (ISO/IEC 14496-12, 4.2)."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 16 <= size:
            file.seek(at)
            length, kind, long = struct.unpack(">I4sQ", file.read(16))
            length = long if length == 1 else length or size - at
            if kind in {b"mdat", b"moof", b"moov"} and at + length > size:
                reason = f"is cut off: it lacks {at + length - size} bytes"
                raise BadSample(path, reason, DAMAGED)
            at += max(length, 8)


def _check_count(path: Path, container: Any, packets: dict[int, list[Packet]]) -> None:
    """Compare with the index of an MP4, which lists packets after edit lists are applied."""
    for stream in (*container.streams.video, *container.streams.audio):
        held, promised = len(packets[stream.index]), len(stream.index_entries)
        if held < promised:
            reason = f"holds {held} of the {promised} packets of its {stream.type}"
            raise BadSample(path, reason, DAMAGED)


def _check_duration(path: Path, container: Any, packets: dict[int, list[Packet]]) -> None:
    end, spacing = Fraction(0), Fraction(0)  # s
    promised = Fraction(container.duration or 0, 1_000_000)
    for index, listed in packets.items():
        times = [packet.pts for packet in listed if packet.pts is not None]
        if times:
            tick = container.streams[index].time_base
            end = max(end, (max(times) + listed[-1].duration) * tick)
            spacing = max(spacing, (max(times) - min(times)) * tick / len(times))
            if container.format.name == "avi":  # FFmpeg reduces its duration to what the file holds
                promised = max(promised, container.streams[index].frames * tick)
    if end + 2 * spacing + _DURATION_TOLERANCE < promised:
        reason = f"ends after {float(end):.2f} of {float(promised):.2f} s"
        raise BadSample(path, reason, DAMAGED)
