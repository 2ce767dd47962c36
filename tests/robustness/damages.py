"""Damages of files: cut off, overwritten, mixed up, or made by someone hostile.

A damage is a function of a random generator, the original and the other originals. It returns the
bytes of the damaged file. Fields of a format are damaged on purpose, since random bits rarely hit
them.
"""

import re
import struct
import zlib
from pathlib import PurePath
from typing import Final

from tests.robustness.annotation_damages import ON_ANNOTATIONS, hostile_path
from tests.robustness.format_fields import FIELDS
from tests.robustness.inputs import OUTSIDE

_ABSURD: Final = (0, 1, 60_000, 2**20, 2**27, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**64 - 1)
_NUMBER: Final = re.compile(rb"(?<![\w.])-?\d+(\.\d+)?")
_NO_NUMBERS: Final = [
    *("nan", "inf", "-inf", "1e400", "-1", "0", "1e-320", "0x10", "1,5", "x", "", "9" * 5000),
    *("2147483648", "4294967296", "99999999999999999999"),
]


def cut_off(random, original, others):
    data = original.content
    return data[: int(len(data) * random.random())]


def flipped_in_header(random, original, others):
    """Some bits of the header are flipped."""
    data = bytearray(original.content)
    start = max(data.find(b"moov"), 0)
    for _ in range(random.choice((1, 2, 8, 32))):
        at = start + random.randrange(min(len(data) - start, 1024))
        data[at] ^= 1 << random.randrange(8)
    return bytes(data)


def flipped(random, original, others):
    data = bytearray(original.content)
    for _ in range(random.choice((1, 2, 8, 64))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def zeroed(random, original, others):
    """A block is zeroed, or the file is empty."""
    data = original.content
    if random.random() < 0.1:
        return b""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + bytes(end - start) + data[end:]


def other_content(random, original, others):
    return random.choice([other for other in others if other.name != original.name]).content


def swapped(random, original, others):
    """Two parts are swapped."""
    data = original.content
    a, b, c, d = sorted(random.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def appended(random, original, others):
    """Noise, the file itself or another file is appended."""
    data = original.content
    return data + random.choice((random.randbytes(5000), data, random.choice(others).content))


def absurd_header(random, original, others):
    """Fields have impossible values."""
    data = original.content
    suffix = PurePath(original.name).suffix
    fields = [field for field in FIELDS.get(suffix, ()) if field[0] in data]
    if not fields or (suffix == ".safetensors" and random.random() < 0.7):
        return _absurd_text(random, data)
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        marker, offset, width, order = random.choice(fields)
        places = [found.end() + offset for found in re.finditer(re.escape(marker), data)][:64]
        at = random.choice(places if marker else [offset])
        any_bits = random.getrandbits(8 * width)
        new = (random.choice([*_ABSURD, any_bits]) % 256**width).to_bytes(width, order)
        if 0 <= at <= len(changed) - width:
            changed[at : at + width] = new
    return _with_checksum(bytes(changed))


def _absurd_text(random, data):
    places = list(_NUMBER.finditer(data))
    chosen = random.sample(places, min(len(places), random.choice((1, 1, 3))))
    for place in sorted(chosen, key=lambda place: -place.start()):
        new = random.choice(_NO_NUMBERS).encode()
        data = data[: place.start()] + new + data[place.end() :]
    return data


def _with_checksum(data):
    """Correct the checksum of a PNG's header, without which no reader looks at it."""
    at = data.find(b"IHDR")
    if at < 0 or not data.startswith(b"\x89PNG"):
        return data
    end = at + 17
    return data[:end] + struct.pack(">I", zlib.crc32(data[at:end])) + data[end + 4 :]


def hostile_container(random, original, others):
    """A text that makes some readers open the files it names."""
    target = random.choice(
        (f"{OUTSIDE}/secret.mp4", "../outside/secret.mp4", "../../outside/secret.mp4")
    )
    image = random.choice((f"{OUTSIDE}/secret.png", "../../../outside/secret.png"))
    return random.choice(
        (
            f"ffconcat version 1.0\nfile '{target}'\n",
            f"ffconcat version 1.0\nfile file:{target}\nduration 2\n",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
            f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:2,\n{target}\n',
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
            f"<?xml version='1.0'?><MPD><Period><AdaptationSet><Representation><BaseURL>{target}"
            "</BaseURL></Representation></AdaptationSet></Period></MPD>",
            f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
            f"# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:01, filepos: 0\n{target}",
            "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n"
            f"({image}) (r) file 1000 string readstring\n%%EOF\n",
            f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{image}'/></svg>",
        )
    ).encode()


def hostile_material(random, original, others):
    """A mesh that names files of materials or textures."""
    data = original.content
    target = random.choice(("../outside/secret", "../../outside/secret", f"{OUTSIDE}/secret"))
    if original.name.endswith(".obj"):
        return f"mtllib {target}.mtl\nusemtl toy\n".encode() + data
    return data.replace(b"comment toy", f"comment TextureFile {target}.png".encode())


_ANY: Final = {
    "cut off": cut_off,
    "bits flipped in its header": flipped_in_header,
    "bits flipped anywhere": flipped,
    "zeroed": zeroed,
    "another file's content": other_content,
    "parts swapped": swapped,
    "garbage appended": appended,
}
_BINARY: Final = _ANY | {"absurd header": absurd_header}
DAMAGES: Final = {
    "video": _BINARY | {"hostile playlist": hostile_container},
    "sound": _BINARY | {"hostile playlist": hostile_container},
    "image": _BINARY | {"hostile script": hostile_container},
    "matrix": _ANY | {"absurd numbers": absurd_header},
    "list of scenes": _ANY | {"hostile path": hostile_path},
    ".sens": _BINARY,
    "mesh": _BINARY | {"hostile material": hostile_material},
    "frame cache": _BINARY,
    "annotations": _ANY | ON_ANNOTATIONS,
    "table": _BINARY,
}
"""Kind of input → name of a damage → its function."""
