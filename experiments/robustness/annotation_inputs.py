"""Official annotation files of every benchmark, as the toy worlds write them, and their media."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any, Final

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
from datamodules.benchmarks.base import SPLITS
from datamodules.samples import Split
from datamodules.toyworld.annotations import SCANQA_FILES, scanqa, sqa3d
from datamodules.toyworld.blinks import sample_clip
from datamodules.toyworld.ego_annotations import ego_annotations
from datamodules.toyworld.fast_annotations import fast_annotations
from datamodules.toyworld.scene import sample_scene
from datamodules.toyworld.sound import add_sound
from datamodules.toyworld.sound_annotations import annotation_files
from datamodules.toyworld.takes import sample_take
from experiments.robustness import readings
from experiments.robustness.media_inputs import encode
from experiments.robustness.original import Original
from experiments.robustness.scene_inputs import scene

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


def annotations() -> list[Original]:
    """A file or two of every benchmark, with the media that it names."""
    scenes = [sample_scene(0, index) for index in range(2)]
    rooms = [add_sound(scene, 0) for scene in scenes]
    clips, takes = [sample_clip(0, 1)], [sample_take(0, 1)]
    heard = {split: annotation_files(rooms, split) for split in SPLITS}
    fast = {split: fast_annotations(clips, split) for split in SPLITS}
    conversations = fast["train"]
    patterns = {"patterns": [Path(name).name for name in conversations]}
    instruct = next(iter(conversations.values()))
    tasks = {"tasks": [Path(name).stem for name in fast["val"]]}
    names = {
        "1_plotQA": "plotQA",
        "2_needle": "needle",
        "4_count": "count",
        "5_order": "order",
    }
    mlvu = _of("mlvu/json/", fast["test"])
    chosen = [names[Path(name).stem] for name in mlvu]
    cases: list[tuple[type[Benchmark], Split, dict[str, Any], dict[str, Any]]] = [
        (ScanQA, "val", {SCANQA_FILES["val"]: scanqa(scenes, "val")}, {}),
        (SQA3D, "test", sqa3d(scenes, "test"), {}),
        (AVSD, "train", _of("avsd/", heard["train"]), {}),
        (AVSD, "test", _of("avsd/", heard["test"]), {"references": "multiple"}),
        (AVQA, "val", _of("avqa/", heard["val"]), {}),
        (MusicAVQA, "train", _of("music_avqa/", heard["train"]), {"videos": "flat"}),
        (LLaVAVideo, "train", _of("llava_video/", conversations), patterns),
        (InstructJSON, "train", {"instruct.json": instruct}, {}),
        (VideoMME, "test", {"v.json": next(iter(_of("videomme/", fast["test"]).values()))}, {}),
        (MVBench, "test", _of("mvbench/json/", fast["val"]), tasks),
        (MLVU, "test", mlvu, {"tasks": chosen}),
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
    clip = encode(".mp4", ("libx264", {}), None, fps=3)  # questions reach up to 7 s
    named = {(role, name) for episode in episodes for role, name in episode.media.items()}
    for role, name in named:
        if role == "scene":
            files |= scene(f"media/{name}")
        elif role == "take":
            views = ("aria01_214-1", "cam01")
            files |= {f"media/{name}/frame_aligned_videos/{view}.mp4": clip for view in views}
        else:
            files[f"media/{name}"] = clip
    media = tuple(sorted({PurePath(name).stem for _, name in named}))
    way = partial(readings.ask, reader=reader, file=one_file, options=options)
    return [Original("annotations", name, files, (way,), media) for name in read[:2]]
