"""Generates a toy world: clips in parallel, then annotations, a contact sheet, and a manifest."""

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
from experiments.toyworld.scene import FRAMES
from experiments.toyworld.worlds import WORLDS
from vlynx_pl.io.progress import track

FORMAT = "vlynx-toyworld-2"
MANIFEST = "toyworld.json"
_UNFINISHED = "toyworld.unfinished.json"
_HELD_OUT = 10  # one clip in ten is for validation, and one for test


def generate_toyworld(
    out: Path, world: str = "3d", scenes: int = 600, seed: int = 0, workers: int = 2
) -> bool:
    """Write a toy world into ``out``; the same arguments give the same bytes.

    Args:
        out: folder to create. It gets the clips, the annotation files, ``contact_sheet.png``, and
            last ``toyworld.json``, which marks the world as complete.
        world: one of :data:`~experiments.toyworld.worlds.WORLDS`.
        scenes: number of clips, at least three; a tenth each is for validation and test.
        seed: seed of the world.
        workers: number of processes; 1 means this process. The result does not depend on it.

    Returns:
        Whether anything was written: a complete world of these arguments is left alone.

    Raises:
        BadSample: ``out`` contains something else, or cannot be written.
        ValueError: the world is unknown, or there are too few scenes.
    """
    if world not in WORLDS:
        raise ValueError(f"world={world!r} is not one of {', '.join(WORLDS)}")
    if scenes < 3:
        raise ValueError(f"scenes={scenes}, but train, val and test need one each: give 3 or more")
    wanted = {"format": FORMAT, "world": world, "scenes": scenes, "seed": seed, "size": 64}
    if world == "3d":
        wanted["frames"] = FRAMES
    if _exists(out, wanted):
        Console().print(f"{out} already contains this toy world")
        return False
    try:
        _write(out, wanted, workers)
    except OSError as error:
        raise BadSample(
            out,
            f"could not be written ({error.strerror})",
            "Free some space or make the folder writable; the same command then starts again",
        ) from error
    return True


def _write(out: Path, wanted: dict[str, Any], workers: int) -> None:
    from matplotlib.figure import Figure

    world, scenes = WORLDS[wanted["world"]], wanted["scenes"]
    out.mkdir(parents=True, exist_ok=True)
    (out / _UNFINISHED).write_text(json.dumps(wanted))
    made = _made(partial(world.make, out, wanted["seed"]), scenes, workers)
    facts = list(track(made, f"Toy world {wanted['world']}, {scenes} scenes", scenes))
    world.annotate(out, _splits(facts))
    figure = Figure(layout="constrained")
    world.draw(figure, out, facts)
    figure.savefig(out / "contact_sheet.png", dpi=110, format="png")
    (out / _UNFINISHED).replace(out / MANIFEST)


def _exists(out: Path, wanted: dict[str, object]) -> bool:
    """Whether the wanted world is complete; an interrupted one is removed."""
    if (out / MANIFEST).exists():
        found = json.loads((out / MANIFEST).read_text())
        if found != wanted:
            raise BadSample(
                out,
                f"contains another toy world ({found})",
                "Give another --out, or remove the folder",
            )
        return True
    if out.exists() and any(out.iterdir()):
        if not (out / _UNFINISHED).exists():
            raise BadSample(
                out, "contains files that are not a toy world", "Give an empty or new --out"
            )
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
