"""Fields of file formats, to be overwritten with absurd values.

FIELDS: suffix → fields as (marker, offset from its end in bytes, width in bytes, byte order).
"""

from typing import Final, Literal


def _fields(order: Literal["big", "little"], *groups) -> list[tuple[bytes, int, int, str]]:
    """Combine each marker of a group (markers, offsets, widths) with each offset and width."""
    return [
        (marker if isinstance(marker, bytes) else _element(marker), offset, width, order)
        for markers, offsets, widths in groups
        for marker in markers
        for offset in offsets
        for width in widths
    ]


def _element(name: int) -> bytes:
    """Return the ID of a Matroska element, which precedes its length and its value."""
    return name.to_bytes((name.bit_length() + 7) // 8, "big")


_MP4: Final = _fields(
    "big",
    ([b"tkhd"], (20, 40, 44, 76, 80), [4]),  # duration, matrix, width, height
    ([b"avc1"], (24, 26), [2]),  # width, height
    ([b"mp4a"], (16, 18, 24), [2]),  # channels, bits, rate
    ([b"mvhd", b"mdhd"], (12, 16), [4]),  # timescale, duration
    ([b"stts", b"ctts", b"stsc", b"stco", b"stss", b"stsd"], [4], [4]),
    ([b"stts", b"ctts", b"stsc", b"stco", b"elst"], (8, 12), [4]),
    ([b"stsz"], (4, 8, 12), [4]),  # one size for all, count, first size
    ([b"elst"], (4, 16), [4]),
    ([b"moov", b"trak", b"mdat", b"stbl", b"stsd", b"avcC", b"esds"], [-8], [4]),
    ([b"avcC"], (4, 6, 8), [2]),
    ([b"mvex"], (0, 4), [4]),
)
_OPUS: Final = _fields("little", ([b"OpusHead"], (0, 1, 2, 4, 8, 9, 10), [2]))
# The header, segments, tracks and blocks of Matroska; elements whose values are numbers.
_PARTS: Final = (0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0x1C53BB6B, 0xA3, 0xAE, 0xE0, 0xE1)
_VALUES: Final = (
    *(0xB0, 0xBA, 0x63A2, 0x2AD7B1, 0x4489, 0x23E383),
    *(0xB5, 0x9F, 0xE7, 0x86, 0xD7, 0x83),
)
_EBML: Final = [
    *_fields("big", (_PARTS + _VALUES, [0], (1, 2, 8)), (_VALUES, [1], (1, 2, 4))),
    *_OPUS,
]
_RIFF: Final = _fields(
    "little",
    ([b"RIFF", b"data"], [0], [4]),
    ([b"fmt "], (0, 8, 12), [4]),
    ([b"fmt "], (4, 6, 16, 18), [2]),
    ([b"avih"], range(0, 48, 4), [4]),
    ([b"strh"], range(0, 60, 4), [4]),
    ([b"strf"], (0, 4, 8, 12), [4]),
    ([b"strf"], (6, 18), [2]),
    ([b"LIST", b"movi", b"idx1", b"00dc", b"01wb"], (0, 8, 12), [4]),
)
FIELDS: Final = {
    ".mp4": _MP4,
    ".m4a": _MP4,
    ".mkv": _EBML,
    ".webm": _EBML,
    ".avi": _RIFF,
    ".wav": _RIFF,
    ".ts": _fields("big", ([b"\x47"], (0, 3, 4, 5, 12), (1, 2))),
    ".gif": _fields(
        "little",
        ([b"GIF89a"], (0, 2), [2]),
        ([b"\x2c"], (0, 2, 4, 6, 8), [2]),
        ([b"\x21\xf9\x04"], [1], [2]),
    ),
    ".mp3": _fields(
        "big",
        ([b"Info"], (0, 4, 8, 12), [4]),
        ([b"ID3"], (0, 3), [4]),
        ([b"APIC"], [0], [4]),
        ([b"\xff\xfb"], [0], [2]),
    ),
    ".flac": _fields("big", ([b"fLaC"], range(0, 24, 2), (1, 4))),
    ".ogg": _fields("little", ([b"OggS"], (0, 2, 6, 14, 22), (1, 4))) + _OPUS,
    ".png": _fields("big", ([b"IHDR"], (0, 4), [4]), ([b"IHDR"], (8, 9, 12), [1])),
    ".jpg": _fields(
        "big",
        ([b"\xff\xc0"], (0, 3, 5), [2]),
        ([b"\xff\xc0"], (2, 7), [1]),
        ([b"\xff\xda", b"\xff\xc4", b"\xff\xdb"], [0], [2]),
    ),
    ".sens": _fields(
        "little",
        ([b""], [0], [4]),
        ([b""], [4], [8]),
        ([b"toy"], range(256, 288, 4), [4]),
        ([b"toy"], (288, 360, 368, 376, 384), [8]),
    ),
    ".stl": _fields("little", ([b"toy"], [77], [4])),
    ".safetensors": _fields("little", ([b""], [0], [8]), ([b""], [4], [4])),
}
