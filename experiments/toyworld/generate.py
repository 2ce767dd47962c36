"""Writes a toy world: its clips in parallel, then annotations, a picture, and last a manifest."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from datamodules.processes import READERS
from datamodules.samples import BadSample, Split
from experiments.toyworld.rooms import Rooms
from experiments.toyworld.worlds import WORLDS, World
from vlynx_pl.io.progress import track

FORMAT = "vlynx-toyworld-2"
MANIFEST = "toyworld.json"
_UNFINISHED = "toyworld.unfinished.json"
_HELD_OUT = 10  # one scene in so many is for validation, and as many for test


def generate_toyworld(
    out: Path,
    world: str = "3d",
    scenes: int = 600,
    seed: int = 0,
    workers: int = 2,
    frames: int = 4,
    size: int = 64,
) -> bool:
    """Write a toy world into ``out``, the same bytes for the same arguments.

    Args:
        out: folder to make. It holds the clips and annotation files of the world, a
            ``contact_sheet.png``, and last ``toyworld.json``, the sign that it is complete.
        world: one of :data:`~experiments.toyworld.worlds.WORLDS`.
        scenes: number of clips, three at least; a tenth each is for validation and test.
        seed: seed of the world.
        workers: processes, of which 1 is this one; the result does not depend on them.
        frames: frames a scene of the 3d world; other worlds have their own.
        size: side of the pictures in pixels.

    Returns:
        Whether anything was written: a complete world of these arguments is left alone.

    Raises:
        BadSample: ``out`` holds something else, or cannot be written.
        ValueError: there is no such world, or too few scenes.
    """
    if world not in WORLDS:
        raise ValueError(f"world={world!r} is none of {', '.join(WORLDS)}")
    if scenes < 3:
        raise ValueError(f"scenes={scenes}, but train, val and test need one each: give 3 or more")
    wanted = {"format": FORMAT, "world": world, "scenes": scenes, "seed": seed, "size": size}
    if world == "3d":
        wanted["frames"] = frames
    if _is_there(out, wanted):
        Console().print(f"{out} already holds this toy world")
        return False
    try:
        _write(out, Rooms(frames) if world == "3d" else WORLDS[world], wanted, workers)
    except OSError as error:
        raise BadSample(
            out,
            f"could not be written ({error.strerror})",
            "Free some space or make the folder writable; the same command then begins anew",
        ) from error
    return True


def _write(out: Path, world: World, wanted: dict[str, Any], workers: int) -> None:
    scenes, seed, size = (wanted[name] for name in ("scenes", "seed", "size"))
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).write_text(json.dumps(wanted))
    made = _made(partial(world.make, out, seed, size=size), scenes, workers)
    facts = list(track(made, f"Toy world {world.name}, {scenes} scenes", scenes))
    for split, part in _splits(facts).items():
        world.annotate(out, split, part)
    world.draw(facts, out, out / "contact_sheet.png", size)
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


def _made(make: Callable[[int], Any], scenes: int, workers: int) -> Iterator[Any]:
    if workers == 1:
        yield from map(make, range(scenes))
        return
    with ProcessPoolExecutor(workers, READERS) as pool:
        yield from pool.map(make, range(scenes), chunksize=8)


def _splits(facts: Sequence[Any]) -> dict[Split, Sequence[Any]]:
    held_out = max(1, len(facts) // _HELD_OUT)
    return {
        "train": facts[: -2 * held_out],
        "val": facts[-2 * held_out : -held_out],
        "test": facts[-held_out:],
    }
