"""Lengths that WAV, WMA and MP3 files state, and tags of MP3, which FFmpeg does not report."""

import re
import struct
from pathlib import Path

# Lengths of a WAV that was written to a pipe: 0, or about 2 or 4 GiB.
_NO_LENGTHS = (range(1), range(0x7FFFF000, 0x80000001), range(0xFFFFFF00, 0x100000000))
_ASF_PROPERTIES = re.compile(
    b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65"
    rb".{24}(?P<size>.{8}).{40}(?P<flags>.{4})",
    re.DOTALL,
)
# Bytes of the longest MP3 frame, 320 kb/s at 32 kHz.
_LONGEST_FRAME = 1441
# A frame without sound: the header of Xing or LAME ("Info"), with a flag for the number of frames,
# or of Fraunhofer.
_FRAME_COUNT = re.compile(
    rb"\xff[\xe2-\xff].{11,34}(?:Xing|Info)...[\1\3\5\7\x09\x0b\x0d\x0f](?P<xing>.{4})"
    rb"|\xff[\xe2-\xff].{34}VBRI.{10}(?P<vbri>.{4})",
    re.DOTALL,
)


def wav_is_endless(path: Path) -> bool:
    """Whether the header of a WAV lacks the length, as when it was written to a pipe."""
    with path.open("rb") as file:
        order = ">" if file.read(12).startswith(b"RIFX") else "<"
        while len(head := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}4sI", head)
            if kind == b"data":
                return any(size in lengths for lengths in _NO_LENGTHS)
            if kind == b"ds64":  # of RF64, which has the length
                return False
            file.seek(size + size % 2, 1)
    return False


def asf_size(path: Path) -> int:
    """The number of bytes that a WMA or WMV file states, 0 if none."""
    with path.open("rb") as file:
        found = _ASF_PROPERTIES.search(file.read(2**16))
    # ASF specification, 3.2: the first flag marks a broadcast, whose length is unknown.
    return 0 if found is None or found["flags"][0] & 1 else int.from_bytes(found["size"], "little")


def mp3_frames(path: Path, start: int) -> int:
    """The number of frames that an MP3 states, 0 if none; its first packet is at ``start``."""
    with path.open("rb") as file:
        file.seek(max(0, start - _LONGEST_FRAME))
        found = _FRAME_COUNT.search(file.read(min(start, _LONGEST_FRAME)))
    return int.from_bytes(found["xing"] or found["vbri"], "big") if found else 0


def mp3_tag(data: bytes) -> int:
    """The length in bytes of the tag that begins with ``data``, 0 if none does.

    ID3 (id3.org), APE and Lyrics3 tags precede or follow the frames of an MP3, or stand between
    them in concatenated files.
    """
    if data.startswith(b"ID3") and len(data) >= 10:
        return 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(data[6:10]))
    if data.startswith(b"APETAGEX") and len(data) >= 16:
        return 32 + int.from_bytes(data[12:16], "little")
    # The first version of APE has its name at the end only.
    return len(data) if data.startswith((b"TAG", b"LYRICSBEGIN")) or b"APETAGEX" in data else 0
