"""Writes a toy world: scenes in ScanNet's layout, questions in ScanQA's and SQA3D's."""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from datamodules.samples import BadSample
from datamodules.toyworld.annotations import SCANQA_FILES, scanqa, sqa3d
from datamodules.toyworld.contact_sheet import save_contact_sheet
from datamodules.toyworld.files import write_scene
from datamodules.toyworld.scene import Scene, sample_scene

FORMAT = "vlynx-toyworld-1"
MANIFEST = "toyworld.json"
_UNFINISHED = "toyworld.unfinished.json"
_HELD_OUT = 10  # one scene in so many is for validation, and as many for test


def generate_toyworld(
    out: Path, scenes: int = 600, seed: int = 0, workers: int = 2, frames: int = 4, size: int = 64
) -> bool:
    """Write a toy world into ``out``, the same bytes for the same arguments.

    Args:
        out: folder to make. It holds ``scans/``, ``scannetv2_{train,val,test}.txt``, the annotation
            files, ``contact_sheet.png``, and last ``toyworld.json``, the sign that it is complete.
        scenes: number of rooms, three at least; a tenth each is for validation and test.
        seed: seed of the world.
        workers: processes; the result does not depend on them.
        frames: frames a scene.
        size: side of the pictures in pixels.

    Returns:
        Whether anything was written: a complete world of these arguments is left alone.

    Raises:
        BadSample: ``out`` holds something else, or cannot be written.
        ValueError: too few scenes.
    """
    if scenes < 3:
        raise ValueError(f"scenes={scenes}, but train, val and test need one each: give 3 or more")
    wanted = {"format": FORMAT, "scenes": scenes, "seed": seed, "frames": frames, "size": size}
    if _is_there(out, wanted):
        Console().print(f"{out} already holds this toy world")
        return False
    try:
        _write(out, wanted, workers)
    except OSError as error:
        raise BadSample(
            out,
            f"could not be written ({error.strerror})",
            "Free some space or make the folder writable; the same command then begins anew",
        ) from error
    return True


def _write(out: Path, wanted: dict[str, Any], workers: int) -> None:
    scenes, seed, frames, size = (wanted[name] for name in ("scenes", "seed", "frames", "size"))
    (out / "scans").mkdir(parents=True)
    (out / _UNFINISHED).write_text(json.dumps(wanted))
    make = partial(_make, out=out / "scans", seed=seed, frames=frames, size=size)
    # Forking a process that has threads (open3d, torch) may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = pool.map(make, range(scenes), chunksize=8)
        rooms = list(track(made, f"Toy world, {scenes} scenes", scenes))
    splits = _splits(rooms)
    for split, part in splits.items():
        _write_split(out, split, part)
    names = {split: [scene.name for scene in part] for split, part in splits.items()}
    (out / "scene_split.json").write_text(json.dumps(names))
    # A scene with one object in one distance band has no comparison to show.
    shown = [scene for scene in rooms if len(scene.objects) > 1][:12]
    save_contact_sheet(shown, out / "contact_sheet.png", size)
    (out / _UNFINISHED).replace(out / MANIFEST)


def _is_there(out: Path, wanted: dict[str, object]) -> bool:
    """Whether the wanted world is complete; an interrupted one is cleared away."""
    if (out / MANIFEST).exists():
        found = json.loads((out / MANIFEST).read_text())
        if found != wanted:
            raise BadSample(
                out,
                f"holds another toy world ({found})",
                "Give another --out, or remove the folder",
            )
        return True
    if out.exists() and any(out.iterdir()):
        if not (out / _UNFINISHED).exists():
            raise BadSample(out, "holds files that are no toy world", "Give an empty or new --out")
        shutil.rmtree(out)
    return False


def _make(index: int, out: Path, seed: int, frames: int, size: int) -> Scene:
    scene = sample_scene(seed, index, frames)
    write_scene(scene, out / scene.name, size)
    return scene


def _splits(scenes: Sequence[Scene]) -> dict[str, Sequence[Scene]]:
    held_out = max(1, len(scenes) // _HELD_OUT)
    return {
        "train": scenes[: -2 * held_out],
        "val": scenes[-2 * held_out : -held_out],
        "test": scenes[-held_out:],
    }


def _write_split(out: Path, split: str, scenes: Sequence[Scene]) -> None:
    names = "".join(f"{scene.name}\n" for scene in scenes)
    (out / f"scannetv2_{split}.txt").write_text(names)
    files: dict[str, object] = {SCANQA_FILES[split]: scanqa(scenes, split), **sqa3d(scenes, split)}
    for name, content in files.items():
        (out / name).write_text(json.dumps(content))
