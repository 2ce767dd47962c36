"""Readings of damaged inputs, through the public readers and data modules that runs use.

A reading is given a folder, and returns if everything in it looks right. It raises what a data
module would skip, so that it counts as refused.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any
from warnings import catch_warnings, simplefilter

import torch

from datamodules.audio import AudioDataModule
from datamodules.base import ModalityDataModule
from datamodules.benchmarks import AVSD, Benchmark
from datamodules.depth import DepthDataModule
from datamodules.ego import EgoDataModule
from datamodules.high_frame_rate import HighFrameRateDataModule
from datamodules.loading.frame_cache import FrameCache
from datamodules.media.audio import Sound, read_sound
from datamodules.media.mesh_depth import prepare_depth_from_mesh
from datamodules.media.prepare import prepare_scannet
from datamodules.media.sampling import Uniform
from datamodules.media.scannet import open_scene
from datamodules.media.scannet_frames import colour_frames, depth_frames
from datamodules.media.video import Request, read_video
from datamodules.samples import BadSample, Episode, Frames
from tests.datamodules.benchmarks.official_layouts import Official

SIZE = (32, 32)
_SMALL: dict[str, Any] = {"frames": 4, "frame_size": SIZE, "batch_size": 2, "num_workers": 0}
_SKIPPING: dict[str, Any] = {"on_bad_sample": "skip", "max_bad_share": 1.0}


def see_and_hear(folder: Path, name: str, sound: bool) -> None:
    """Read a video's frames at two rates and its sound, all at once."""
    requests = [Request(Uniform(5), SIZE), Request(Uniform(20), (16, 16))]
    recording = read_video(folder / name, requests, sound=sound)
    for frames, count in zip(recording.streams, (5, 20), strict=True):
        _check_frames(frames, count)
        assert list(frames.times) == sorted(frames.times)
    if recording.sound:
        _check_sound(recording.sound)


def hear(folder: Path, name: str) -> None:
    """Read the sound of an audio file or a video."""
    _check_sound(read_sound(folder / name))


def align_sound(folder: Path, name: str) -> None:
    """Align on sound, with bad files skipped."""
    _align(AudioDataModule(folder / "media", **_skipping(folder)), folder / name)


def align_fast_frames(folder: Path, name: str) -> None:
    """Align on high-frame-rate video, with bad files skipped."""
    _align(HighFrameRateDataModule(folder / "media", **_skipping(folder)), folder / name)


def align_depth(folder: Path, name: str) -> None:
    """Align on depth, with bad scenes and frames skipped."""
    data = DepthDataModule(folder / "media", encoding="turbo+normals", **_SMALL, **_SKIPPING)
    _align(data, (folder / name).parents[1])


def align_listed(folder: Path, name: str) -> None:
    """Align on the scenes of a list, with bad ones skipped."""
    data = DepthDataModule(folder / "media", **_SMALL, **_SKIPPING)
    data.setup("fit")
    for bad in data.bad_samples:
        raise bad


def see_scene(folder: Path, name: str) -> None:
    """Read everything in a scene."""
    scene = open_scene((folder / name).parents[1])
    depth = depth_frames(scene, scene.frames, encoding="turbo+normals", normal_frame="world")
    _check_frames(Frames(depth, ()), 2 * len(scene.frames))
    _check_frames(Frames(colour_frames(scene, scene.frames), ()), len(scene.frames))


def export_recording(folder: Path, name: str) -> None:
    """Export a .sens recording into a scene's folder, and read that."""
    scene = open_scene(prepare_scannet(folder / name, folder / "out", None))
    colour_frames(scene, scene.frames)
    for frame in scene.frames:
        assert scene.read_depth(frame).isfinite().all()


def render_mesh(folder: Path, name: str) -> None:
    """Render the depth of a scene from a mesh, and read that."""
    scene = open_scene(prepare_depth_from_mesh(folder / name, folder / "scene", folder / "out"))
    for frame in scene.frames:
        assert scene.read_depth(frame).isfinite().all()


def load_entry(folder: Path, name: str) -> None:
    """Load an entry of a frame cache; a damaged one is made again, once, with a warning."""
    frames = {
        name: Frames(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), (0.0, 1.0, 2.0, 3.0))
        for name in ("video", "audio")
    }
    cache = FrameCache(folder, [])
    with catch_warnings(record=True) as told:
        simplefilter("always")
        for _ in range(2):
            loaded = cache.load("modality", "clip", (), lambda: frames)
            for stream in loaded.values():
                _check_frames(stream, 4)
    if told:
        assert len(told) == 1
        raise BadSample(folder / name, str(told[0].message), "It was made again")


def ask(folder: Path, official: Official) -> None:
    """Read a benchmark's questions and the media that they name, with bad ones skipped."""
    benchmark = official.reopen(folder / "annotations")
    for episode in benchmark.episodes(official.split):
        _check_episode(episode, official.reader)
    modality: type[ModalityDataModule] = HighFrameRateDataModule
    if official.reader.__name__ in {"ScanQA", "SQA3D"}:
        modality = DepthDataModule
    elif official.reader.__name__ == "EgoExo4D":
        modality = EgoDataModule
    settings = {"objective": "tuning", "benchmark": benchmark, **_SMALL, **_SKIPPING}
    data = modality(folder / "media", **settings)
    findings = data.inspect(data.serving.recordings.parts(), read=True)
    assert findings
    for finding in findings:
        assert bool(finding.usable) != bool(finding.bad)
        for bad in finding.bad:
            raise bad


def _check_episode(episode: Episode, reader: type[Benchmark]) -> None:
    """Assert that paths stay inside, nothing is empty, and answers are among the options."""
    assert episode.questions
    for path in map(PurePosixPath, episode.media.values()):
        assert path.parts and not path.is_absolute() and ".." not in path.parts
    for question in episode.questions:
        json.dumps(question.__dict__ | {"labels": 0})
        assert question.prompt.encode() and all(answer.strip() for answer in question.answers)
        if reader is AVSD:
            assert "__UNDISCLOSED__" not in [answer for _, answer in question.history]
        if question.options:
            assert set(question.answers) <= set("ABCDE"[: len(question.options)])


def _skipping(folder: Path) -> dict[str, Any]:
    return {**_SMALL, **_SKIPPING, "reference_root": folder / "reference"}


def _align(data: ModalityDataModule, damaged: Path) -> None:
    """Assert that only the damaged recording is listed as bad, and raise that."""
    data.setup("fit")
    data.report()
    for batch in (*data.train_dataloader(), *data.val_dataloader(), *data.reference_dataloader()):
        assert batch["frames"].dtype == torch.uint8 and batch["frames"].shape[-2:] == SIZE
    for bad in data.bad_samples:
        assert Path(bad.path).is_relative_to(damaged), f"{bad.path} is well"
    for bad in data.bad_samples:
        raise bad


def _check_frames(frames: Frames, count: int) -> None:
    pixels, times = frames
    assert pixels.dtype == torch.uint8 and pixels.ndim == 4, (pixels.dtype, pixels.shape)
    assert pixels.shape[:2] == (count, 3) and len(times) in {0, count}, (pixels.shape, times)
    pixels.sum()  # a memory-mapped tensor is read only now


def _check_sound(sound: Sound) -> None:
    assert sound.waveform.dtype == torch.float32 and sound.waveform.ndim == 1
    assert sound.waveform.isfinite().all() and len(sound.waveform) >= 1600
