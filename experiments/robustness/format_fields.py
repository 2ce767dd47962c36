"""Where formats say what they hold, to be overwritten with absurd values."""

from typing import Final


def _element(name: int) -> bytes:
    return name.to_bytes((name.bit_length() + 7) // 8, "big")


# Suffix → fields as (what stands before them, bytes from its end, bytes, byte order).
_MP4: Final = [
    *[(b"tkhd", at, 4, "big") for at in (20, 40, 44, 76, 80)],  # duration, matrix, width, height
    *[(b"avc1", at, 2, "big") for at in (24, 26)],  # width, height
    *[(b"mp4a", at, 2, "big") for at in (16, 18, 24)],  # channels, bits, rate
    *[(box, at, 4, "big") for box in (b"mvhd", b"mdhd") for at in (12, 16)],  # timescale, duration
    *[(box, 4, 4, "big") for box in (b"stts", b"ctts", b"stsc", b"stco", b"stss", b"stsd")],
    *[
        (box, at, 4, "big")
        for box in (b"stts", b"ctts", b"stsc", b"stco", b"elst")
        for at in (8, 12)
    ],
    *[(b"stsz", at, 4, "big") for at in (4, 8, 12)],  # one size for all, count, first size
    *[(b"elst", at, 4, "big") for at in (4, 16)],
    *[
        (box, -8, 4, "big")
        for box in (b"moov", b"trak", b"mdat", b"stbl", b"stsd", b"avcC", b"esds")
    ],
    *[(b"avcC", at, 2, "big") for at in (4, 6, 8)],
    *[(b"mvex", at, 4, "big") for at in (0, 4)],
]
# The header, segments, tracks and blocks of Matroska; fields whose values are numbers.
_PARTS: Final = (0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0x1C53BB6B, 0xA3, 0xAE, 0xE0, 0xE1)
_VALUES: Final = (
    0xB0,
    0xBA,
    0x63A2,
    0x2AD7B1,
    0x4489,
    0x23E383,
    0xB5,
    0x9F,
    0xE7,
    0x86,
    0xD7,
    0x83,
)
_OPUS: Final = [(b"OpusHead", at, 2, "little") for at in (0, 1, 2, 4, 8, 9, 10)]
_EBML: Final = [
    # The length of an element follows its name, then its value.
    *[(_element(name), 0, width, "big") for width in (1, 2, 8) for name in _PARTS + _VALUES],
    *[(_element(name), 1, width, "big") for width in (1, 2, 4) for name in _VALUES],
    *_OPUS,
]
_RIFF: Final = [
    (b"RIFF", 0, 4, "little"),
    *[
        (b"fmt ", at, w, "little")
        for at, w in ((0, 4), (4, 2), (6, 2), (8, 4), (12, 4), (16, 2), (18, 2))
    ],
    (b"data", 0, 4, "little"),
    *[(b"avih", at, 4, "little") for at in range(0, 48, 4)],
    *[(b"strh", at, 4, "little") for at in range(0, 60, 4)],
    *[(b"strf", at, w, "little") for at, w in ((0, 4), (4, 4), (8, 4), (12, 4), (6, 2), (18, 2))],
    *[
        (name, at, 4, "little")
        for name in (b"LIST", b"movi", b"idx1", b"00dc", b"01wb")
        for at in (0, 8, 12)
    ],
]
FIELDS: Final[dict[str, list[tuple[bytes, int, int, str]]]] = {
    ".mp4": _MP4,
    ".m4a": _MP4,
    ".mkv": _EBML,
    ".webm": _EBML,
    ".avi": _RIFF,
    ".wav": _RIFF,
    ".ts": [(b"\x47", at, width, "big") for at in (0, 3, 4, 5, 12) for width in (1, 2)],
    ".gif": [(b"GIF89a", 0, 2, "little"), (b"GIF89a", 2, 2, "little")]
    + [(b"\x2c", at, 2, "little") for at in (0, 2, 4, 6, 8)]
    + [(b"\x21\xf9\x04", 1, 2, "little")],
    ".mp3": [(b"Info", at, 4, "big") for at in (0, 4, 8, 12)]
    + [(b"ID3", at, 4, "big") for at in (0, 3)]
    + [(b"APIC", 0, 4, "big"), (b"\xff\xfb", 0, 2, "big")],
    ".flac": [(b"fLaC", at, width, "big") for at in range(0, 24, 2) for width in (1, 4)],
    ".ogg": [(b"OggS", at, width, "little") for at in (0, 2, 6, 14, 22) for width in (1, 4)]
    + _OPUS,
    ".png": [
        (b"IHDR", at, width, "big") for at, width in ((0, 4), (4, 4), (8, 1), (9, 1), (12, 1))
    ],
    ".jpg": [
        (b"\xff\xc0", at, width, "big") for at, width in ((0, 2), (2, 1), (3, 2), (5, 2), (7, 1))
    ]
    + [(b"\xff\xda", 0, 2, "big"), (b"\xff\xc4", 0, 2, "big"), (b"\xff\xdb", 0, 2, "big")],
    ".sens": [(b"", 0, 4, "little"), (b"", 4, 8, "little")]
    + [(b"toy", 256 + at, 4, "little") for at in range(0, 32, 4)]
    + [(b"toy", 256 + 32, 8, "little")]
    + [(b"toy", 256 + 40 + at, 8, "little") for at in (64, 72, 80, 88)],
    ".stl": [(b"toy", 77, 4, "little")],
    ".safetensors": [(b"", 0, 8, "little"), (b"", 4, 4, "little")],
}
