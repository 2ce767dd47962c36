"""Undamaged videos and audio files."""

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np

from tests.robustness import readings
from tests.robustness.inputs import Original
from tests.robustness.scene_inputs import image

_H, _W, _FRAMES, _FPS = 48, 64, 24, 12
_RATE = 48_000  # Hz


def video(suffix, codec="libx264", sound: str | None = "aac", **options) -> bytes:
    """Return two seconds of a moving pattern with a tone."""
    return encode(suffix, (codec, {"g": "8", **options}), sound)


def encode(suffix, frames, sound, fps=_FPS) -> bytes:
    """Return a file of 24 frames (codec and its options), 2 s of a tone (codec), or both."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        with av.open(str(path), "w") as file:
            tracks = []
            if frames:
                codec, options = frames
                track = file.add_stream(codec, rate=fps, options={"threads": "1", **options})
                track.height, track.width = _H, _W
                track.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
                tracks.append(track)
            if sound:
                tracks.append(file.add_stream(sound, rate=_RATE, layout="mono"))
            for track in tracks:
                for frame in _tone(track) if track.type == "audio" else _pattern(fps, track):
                    file.mux(track.encode(frame))
                file.mux(track.encode())
        return path.read_bytes()


def _pattern(fps, track):
    ramp = np.linspace(0, 255, _W)[None].repeat(_H, 0).astype(np.uint8)
    grey = np.full((_H // 2, _W), 128, np.uint8)
    for number in range(_FRAMES):
        luma = np.roll(ramp, 5 * number, 1)
        plane = luma if track.pix_fmt == "rgb8" else np.concatenate([luma, grey])
        frame = av.VideoFrame.from_ndarray(plane, track.pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, fps)
        yield frame


def _tone(track):
    seconds = _FRAMES / _FPS
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * _RATE)) / _RATE)
    frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
    frame.rate, frame.time_base, frame.pts = _RATE, Fraction(1, _RATE), 0
    form = track.codec_context.format.name
    return av.AudioResampler(form, frame_size=1024).resample(frame)


def videos() -> list[Original]:
    """Return a video in every container, and a rotated one."""
    plain = video(".mp4", bf="3")
    fast = {"deadline": "realtime", "cpu-used": "8"}
    made = {
        "b_frames.mp4": plain,
        "rotated.mp4": _rotated(plain),
        "h264.mkv": video(".mkv", sound="flac", bf="2"),
        "vp9.webm": video(".webm", "libvpx-vp9", "libopus", **fast),
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


def _company(plain):
    """Return good videos beside the damaged one, and reference videos."""
    return dict.fromkeys(
        ("media/a.mp4", "media/z.mp4", "reference/a.mp4", "reference/b.mp4"), plain
    )


def _rotated(data):
    """Rotate an MP4 by 90 degrees with the matrix of its track header (ISO/IEC 14496-12, 8.3.2)."""
    at = data.index(b"tkhd") + 44
    turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, _H << 16, 0, 1 << 30)
    return data[:at] + turn + data[at + len(turn) :]


def sounds() -> list[Original]:
    """Return an audio file of every codec, and one with a cover image."""
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


def _with_cover(data):
    """Replace the encoder's tag of an MP3 with an ID3v2.3 tag that holds an image."""
    if data.startswith(b"ID3"):
        size = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
        data = data[10 + size :]
    frame = b"\0image/jpeg\0\3\0" + image("JPEG")
    tag = b"APIC" + struct.pack(">I2x", len(frame)) + frame
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + tag + data
