"""Undamaged videos and files of sound, the same bytes every time."""

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np

from experiments.robustness import readings
from experiments.robustness.original import Original
from experiments.robustness.scene_inputs import picture

_H, _W, _FRAMES, _FPS = 48, 64, 24, 12
_RATE = 48_000  # Hz
_EXACT = {"fflags": "+bitexact"}


def video(suffix: str, codec: str = "libx264", sound: str | None = "aac", **options: str) -> bytes:
    """Two seconds of a moving pattern, with a tone."""
    return encode(suffix, (codec, {"g": "8", **options}), sound)


def encode(
    suffix: str, pictures: tuple[str, dict[str, str]] | None, sound: str | None, fps: int = _FPS
) -> bytes:
    """A file of 24 pictures, 2 s of a tone, or both."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        with av.open(str(path), "w", options=_EXACT) as file:
            tracks: list[Any] = []
            if pictures:
                codec, options = pictures
                if codec == "libx264":  # else one run in two hundred differs
                    options = options | {"x264-params": "cpu-independent=1"}
                seen: Any = file.add_stream(codec, rate=fps, options={"threads": "1", **options})
                seen.height, seen.width = _H, _W
                seen.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
                tracks.append(seen)
            if sound:
                tracks.append(file.add_stream(sound, rate=_RATE, layout="mono"))
            for track_ in tracks:
                frames = _tone(track_) if track_.type == "audio" else _pattern(fps, track_.pix_fmt)
                for frame in frames:
                    file.mux(track_.encode(frame))
                file.mux(track_.encode())
        return path.read_bytes()


def _pattern(fps: int, form: str) -> list[Any]:
    """In the encoder's own format, so that no conversion has a say."""
    ramp = np.linspace(0, 255, _W)[None].repeat(_H, 0).astype(np.uint8)
    grey = np.full((_H // 2, _W), 128, np.uint8)
    frames = []
    for number in range(_FRAMES):
        luma = np.roll(ramp, 5 * number, 1)
        picture = luma if form == "rgb8" else np.concatenate([luma, grey])
        frame = av.VideoFrame.from_ndarray(picture, form)
        frame.pts, frame.time_base = number, Fraction(1, fps)
        frames.append(frame)
    return frames


def _tone(track: Any) -> list[Any]:
    seconds = _FRAMES / _FPS
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * _RATE)) / _RATE)
    frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
    frame.rate, frame.time_base, frame.pts = _RATE, Fraction(1, _RATE), 0
    form = track.codec_context.format.name
    return list(av.AudioResampler(form, frame_size=1024).resample(frame))


def videos() -> list[Original]:
    """Files of many containers, one rotated."""
    plain = video(".mp4", bf="3")
    made = {
        "b_frames.mp4": plain,
        "rotated.mp4": _rotated(plain),
        "h264.mkv": video(".mkv", sound="flac", bf="2"),
        "vp9.webm": video(
            ".webm", "libvpx-vp9", "libopus", deadline="realtime", **{"cpu-used": "8"}
        ),
        "part2.avi": video(".avi", "mpeg4", "libmp3lame"),
        "stream.ts": video(".ts", bf="2"),
        "pictures.gif": video(".gif", "gif", None),
    }
    found = []
    for name, data in made.items():
        place = f"media/{name}"
        heard = not name.endswith(".gif")
        ways = [partial(readings.see_and_hear, name=place, sound=heard)]
        ways += [partial(readings.align_fast_frames, name=place)]
        if heard:
            ways += [partial(readings.hear, name=place), partial(readings.align_sound, name=place)]
        found.append(Original("video", place, {**_company(plain), place: data}, tuple(ways)))
    return found


def _company(plain: bytes) -> dict[str, bytes]:
    """Good videos beside the one that is damaged, and for the reference."""
    return dict.fromkeys(
        ("media/a.mp4", "media/z.mp4", "reference/a.mp4", "reference/b.mp4"), plain
    )


def _rotated(data: bytes) -> bytes:
    """By 90 degrees: the matrix of the track header (ISO/IEC 14496-12, 8.3.2)."""
    at = data.index(b"tkhd") + 44
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, _H << 16, 0, 1 << 30)
    return data[:at] + turn + data[at + len(turn) :]


def sounds() -> list[Original]:
    """Files of sound alone, one with a cover."""
    codecs = {
        "wav": "pcm_s16le", "mp3": "libmp3lame", "flac": "flac", "ogg": "libopus", "m4a": "aac"
    }  # fmt: skip
    made = {f"tone.{suffix}": encode(f".{suffix}", None, c) for suffix, c in codecs.items()}
    made["cover.mp3"] = _with_cover(made["tone.mp3"])
    plain = video(".mp4", bf="3")
    found = []
    for name, data in made.items():
        place = f"media/{name}"
        ways = (partial(readings.hear, name=place), partial(readings.align_sound, name=place))
        found.append(Original("sound", place, {**_company(plain), place: data}, ways))
    return found


def _with_cover(data: bytes) -> bytes:
    """An ID3v2.3 tag with a picture in place of the encoder's tag."""
    if data.startswith(b"ID3"):
        data = data[10 + _syncsafe(data[6:10]) :]
    frame = b"\0image/jpeg\0\3\0" + picture("JPEG")
    tag = b"APIC" + struct.pack(">I2x", len(frame)) + frame
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + tag + data


def _syncsafe(size: bytes) -> int:
    return sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
