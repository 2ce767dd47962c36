"""Undamaged inputs of every kind that is read, a few kB each, made here and the same every time."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any, Final

import av
import numpy as np
import torch
from PIL import Image
from rich.progress import track

from datamodules.benchmarks import (
    AVQA,
    AVSD,
    AVUT,
    MLVU,
    SQA3D,
    Benchmark,
    EgoExo4D,
    InstructJSON,
    LLaVAVideo,
    MusicAVQA,
    MVBench,
    ScanQA,
    VideoMME,
)
from datamodules.frame_cache import FrameCache
from datamodules.samples import Frames, Split
from datamodules.toyworld.annotations import SCANQA_FILES, scanqa, sqa3d
from datamodules.toyworld.blinks import sample_clip
from datamodules.toyworld.ego_annotations import ego_annotations
from datamodules.toyworld.fast_annotations import fast_annotations
from datamodules.toyworld.scene import sample_scene
from datamodules.toyworld.sound import add_sound
from datamodules.toyworld.sound_annotations import annotation_files
from datamodules.toyworld.takes import sample_take
from experiments.robustness import readings

_H, _W, _FRAMES, _FPS = 48, 64, 24, 12
_RATE = 48_000  # Hz
_EXACT = {"fflags": "+bitexact"}


@dataclass(frozen=True)
class Original:
    """An input: a folder of files, of which one will be damaged.

    Args:
        kind: row of the table.
        name: the file to damage.
        files: path in the folder → content, of all files.
        readings: ways to read the folder.
        media: names of media in an annotation file, as they stand there.
    """

    kind: str
    name: str
    files: Mapping[str, bytes]
    readings: tuple[Callable[[Path], None], ...]
    media: tuple[str, ...] = ()


def make_originals() -> list[Original]:
    """All of them."""
    makers = [_videos, _sounds, _scenes, _recording, _geometries, _annotations, _cache_entry]
    return [
        original
        for make in track(makers, "Making undamaged inputs", transient=True)
        for original in make()
    ]


def video(suffix: str, codec: str = "libx264", sound: str | None = "aac", **options: str) -> bytes:
    """Two seconds of a moving pattern, with a tone."""
    return _encoded(suffix, (codec, {"g": "8", **options}), sound)


def _encoded(
    suffix: str, pictures: tuple[str, dict[str, str]] | None, sound: str | None, fps: int = _FPS
) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        with av.open(str(path), "w", options=_EXACT) as file:
            tracks: list[Any] = []
            if pictures:
                codec, options = pictures
                seen: Any = file.add_stream(codec, rate=fps, options={"threads": "1", **options})
                seen.height, seen.width = _H, _W
                seen.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
                tracks.append(seen)
            if sound:
                tracks.append(file.add_stream(sound, rate=_RATE, layout="mono"))
            for track_ in tracks:
                frames = _tone(track_) if track_.type == "audio" else _pattern(fps)
                for frame in frames:
                    file.mux(track_.encode(frame))
                file.mux(track_.encode())
        return path.read_bytes()


def _pattern(fps: int) -> list[Any]:
    ramp = np.linspace(0, 255, _W)[None, :, None].repeat(_H, 0).repeat(3, 2).astype(np.uint8)
    frames = []
    for number in range(_FRAMES):
        frame = av.VideoFrame.from_ndarray(np.roll(ramp, 5 * number, 1), "rgb24")
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


def _videos() -> list[Original]:
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


def _sounds() -> list[Original]:
    codecs = {
        "wav": "pcm_s16le", "mp3": "libmp3lame", "flac": "flac", "ogg": "libopus", "m4a": "aac"
    }  # fmt: skip
    made = {f"tone.{suffix}": _encoded(f".{suffix}", None, c) for suffix, c in codecs.items()}
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
    frame = b"\0image/jpeg\0\3\0" + _picture("JPEG")
    tag = b"APIC" + struct.pack(">I2x", len(frame)) + frame
    size = bytes(len(tag) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + size + tag + data


def _syncsafe(size: bytes) -> int:
    return sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))


def _picture(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return _saved(pixels, form)


def _depth() -> bytes:
    millimetres = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 7 + 1000
    return _saved(millimetres, "PNG")


def _saved(pixels: Any, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def _matrix(matrix: Any) -> bytes:
    buffer = io.StringIO()
    np.savetxt(buffer, matrix, fmt="%.6f")
    return buffer.getvalue().encode()


def _camera(width: int, height: int) -> Any:
    camera = np.diag([width, width, 1.0, 1.0])
    camera[:2, 2] = (width - 1) / 2, (height - 1) / 2
    return camera


def scene(place: str) -> dict[str, bytes]:
    """A ScanNet scene of three frames."""
    files = {f"{place}/intrinsic/intrinsic_depth.txt": _matrix(_camera(16, 12))}
    files[f"{place}/intrinsic/intrinsic_color.txt"] = _matrix(_camera(32, 24))
    for frame in (0, 20, 40):
        pose = np.eye(4)
        pose[0, 3] = frame / 100
        files |= {
            f"{place}/color/{frame}.jpg": _picture("JPEG"),
            f"{place}/depth/{frame}.png": _depth(),
            f"{place}/pose/{frame}.txt": _matrix(pose),
        }
    return files


def _scenes() -> list[Original]:
    files: dict[str, bytes] = {}
    for number in range(3):
        files |= scene(f"media/scene000{number}_00")
    damaged = {
        "color/20.jpg": "picture",
        "depth/20.png": "picture",
        "pose/20.txt": "matrix",
        "intrinsic/intrinsic_depth.txt": "matrix",
    }
    found = []
    for name, kind in damaged.items():
        place = f"media/scene0001_00/{name}"
        ways = (partial(readings.see_scene, name=place), partial(readings.align_depth, name=place))
        found.append(Original(kind, place, files, ways))
    return found


def _recording() -> list[Original]:
    """A ScanNet recording in SensReader's layout, version 4."""
    depth = zlib.compress((np.arange(12 * 16, dtype="<u2") * 7 + 1000).tobytes())
    matrices = np.stack([_camera(32, 24), np.eye(4), _camera(16, 12), np.eye(4)]).astype("<f4")
    data = struct.pack("<IQ3s", 4, 3, b"toy") + matrices.tobytes()
    data += struct.pack("<2i4IfQ", 2, 1, 32, 24, 16, 12, 1000, 3)
    for number in range(3):
        pose = np.eye(4, dtype="<f4")
        pose[0, 3] = number / 5
        colour = _picture("JPEG")
        data += pose.tobytes() + struct.pack("<4Q", number, number, len(colour), len(depth))
        data += colour + depth
    name = "scene0000_00.sens"
    return [Original(".sens", name, {name: data}, (partial(readings.export_recording, name=name),))]


def _geometries() -> list[Original]:
    """A wall two metres before the camera."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-2, 2, 6), np.linspace(-2, 2, 6)))
    corners = np.stack([x, y, np.full_like(x, 2)], -1).astype("<f4")  # (36, 3)
    first = np.arange(30)[np.arange(30) % 6 < 5]
    faces = np.concatenate(
        [
            np.stack([first, first + 1, first + 6], -1),
            np.stack([first + 1, first + 7, first + 6], -1),
        ]
    ).astype("<i4")
    head = "ply\nformat {} 1.0\ncomment toy\nelement vertex 36\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz")
    mesh = head + "element face 50\nproperty list uchar int vertex_indices\n"
    rows = "".join(f"{a} {b} {c}\n" for a, b, c in corners)
    triangles = "".join(f"3 {a} {b} {c}\n" for a, b, c in faces)
    pcd = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 36\nHEIGHT 1\n"
    pcd += "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 36\nDATA "
    stl = b"toy".ljust(80) + struct.pack("<I", 50)
    obj = "".join(f"v {row}\n" for row in rows.splitlines())
    obj += "".join(f"f {a} {b} {c}\n" for a, b, c in faces + 1)
    little = "binary_little_endian"
    made = {
        "binary.ply": (mesh.format(little) + "end_header\n").encode()
        + corners.tobytes()
        + b"".join(b"\3" + face.tobytes() for face in faces),
        "text.ply": (mesh.format("ascii") + "end_header\n" + rows + triangles).encode(),
        "cloud.ply": (head.format(little) + "end_header\n").encode() + corners.tobytes(),
        "text.pcd": (pcd + "ascii\n" + rows).encode(),
        "binary.pcd": (pcd + "binary\n").encode() + corners.tobytes(),
        "wall.obj": obj.encode(),
        "wall.stl": stl + b"".join(struct.pack("<12f2x", 0, 0, 1, *corners[f].flat) for f in faces),
        "cloud.xyz": rows.encode(),
    }
    return [
        Original(
            "mesh or cloud",
            name,
            {**scene("scene"), name: data},
            (partial(readings.render_mesh, name=name),),
        )
        for name, data in made.items()
    ]


def _cache_entry() -> list[Original]:
    frames = {
        name: Frames(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), (0.0, 1.0, 2.0, 3.0))
        for name in ("video", "audio")
    }
    with TemporaryDirectory() as folder:
        FrameCache(Path(folder), {}).load("modality", "clip", (), lambda: frames)
        (path,) = Path(folder).rglob("*.safetensors")
        name, data = str(path.relative_to(folder)), path.read_bytes()
    return [Original("frame cache", name, {name: data}, (partial(readings.load_entry, name=name),))]


AVUT_RECORD: Final = {
    "video_id": -1,
    "video_type": "vlog",
    "task_type": "Audio OCR Matching",
    "question": "What is written when the bell rings?",
    **{f"option_{letter}": f"Toys {letter}" for letter in "ABCD"},
    "answer": "C",
    "video_path": "data/toy.mp4",
    "QA_id": 1,
}


def _annotations() -> list[Original]:
    """An official file or two of every benchmark, as the toy worlds write them, and its media."""
    scenes = [sample_scene(0, index) for index in range(2)]
    rooms = [add_sound(scene, 0) for scene in scenes]
    clips, takes = [sample_clip(0, 1)], [sample_take(0, 1)]
    heard = {split: annotation_files(rooms, split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    fast = {split: fast_annotations(clips, split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    conversations = fast["train"]
    patterns = {"patterns": [Path(name).name for name in conversations]}
    instruct = next(iter(conversations.values()))
    tasks = {"tasks": [Path(name).stem for name in fast["val"]]}
    chosen = ["plotQA", "needle", "count", "order"]
    mlvu_names = {
        "1_plotQA": "plotQA",
        "2_needle": "needle",
        "4_count": "count",
        "5_order": "order",
    }
    mlvu = {name: c for name, c in fast["test"].items() if name.startswith("mlvu/")}
    chosen = [mlvu_names[Path(name).stem] for name in mlvu]
    avsd_test = {"references": "multiple"}
    cases: list[tuple[type[Benchmark], Split, dict[str, Any], dict[str, Any]]] = [
        (ScanQA, "val", {SCANQA_FILES["val"]: scanqa(scenes, "val")}, {}),
        (SQA3D, "test", sqa3d(scenes, "test"), {}),
        (AVSD, "train", _of("avsd/", heard["train"]), {}),
        (AVSD, "test", _of("avsd/", heard["test"]), avsd_test),
        (AVQA, "val", _of("avqa/", heard["val"]), {}),
        (MusicAVQA, "train", _of("music_avqa/", heard["train"]), {"videos": "flat"}),
        (LLaVAVideo, "train", _of("llava_video/", conversations), patterns),
        (InstructJSON, "train", {"instruct.json": instruct}, {}),
        (VideoMME, "test", {"v.json": next(iter(_of("videomme/", fast["test"]).values()))}, {}),
        (MVBench, "test", _of("mvbench/json/", fast["val"]), tasks),
        (MLVU, "test", _of("mlvu/json/", mlvu), {"tasks": chosen}),
        (EgoExo4D, "val", _of("annotations/", ego_annotations(takes, "val")), {}),
        (EgoExo4D, "test", _of("annotations/", ego_annotations(takes, "test")), {}),
        (AVUT, "train", {"AV_Gemini_data.json": [AVUT_RECORD]}, {}),
    ]
    return [original for case in cases for original in _benchmark(*case)]


def _of(folder: str, files: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(folder): c for name, c in files.items() if name.startswith(folder)}


def _benchmark(
    reader: type[Benchmark], split: Split, contents: dict[str, Any], options: dict[str, Any]
) -> list[Original]:
    files = {f"annotations/{name}": json.dumps(c).encode() for name, c in contents.items()}
    one_file = next(iter(contents)) if reader in {InstructJSON, VideoMME} else ""
    with TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(data)
        benchmark = reader(Path(folder) / "annotations" / one_file, **options)
        episodes = benchmark.episodes(split)
        read = [str(path.relative_to(folder)) for path in benchmark.files(split)]
    clip = _encoded(".mp4", ("libx264", {}), None, fps=3)  # questions reach up to 7 s
    named = {(role, name) for episode in episodes for role, name in episode.media.items()}
    for role, name in named:
        if role == "scene":
            files |= scene(f"media/{name}")
        elif role == "take":
            views = ("aria", "cam01")
            files |= {f"media/{name}/frame_aligned_videos/{view}.mp4": clip for view in views}
        else:
            files[f"media/{name}"] = clip
    media = tuple(sorted({PurePath(name).stem for _, name in named}))
    way = partial(readings.ask, reader=reader, file=one_file, options=options)
    return [Original("annotations", name, files, (way,), media) for name in read[:2]]
