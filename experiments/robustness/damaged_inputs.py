"""Damages thousands of inputs, reads each as a run would, and tells what became of it.

Each must read well, since some damage is harmless, or be refused with BadSample. Exit code 1 if any
reading crashed, died, took too long, or opened a file outside of its root; those inputs are kept.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from shutil import copytree, rmtree
from typing import NamedTuple, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from datamodules.samples import Trouble
from experiments.robustness.annotation_inputs import annotations
from experiments.robustness.damages import DAMAGES
from experiments.robustness.media_inputs import sounds, video, videos
from experiments.robustness.original import OUTSIDE, Original
from experiments.robustness.scene_inputs import cache_entry, meshes, recording, scene, scenes
from experiments.robustness.watched import BAD, Canary, Outcome, Reader, Reading

WELL = "undamaged"
LIBRARIES = ("av", "open3d", "torchaudio.functional")
_SHOWN = 1000  # characters of what went wrong
_COLUMNS = ("well", *get_args(Trouble), *BAD)


class Input(NamedTuple):
    """What is read, and how."""

    number: int
    original: Original
    damage: str
    content: bytes
    reading: Reading


class Result(NamedTuple):
    """An input and what became of it."""

    input: Input
    outcome: Outcome


def make_originals() -> list[Original]:
    """Undamaged inputs of every kind."""
    makers = [videos, sounds, scenes, recording, meshes, annotations, cache_entry]
    made = track(makers, "Making undamaged inputs", transient=True)
    return [original for make in made for original in make()]


def inputs(originals: Sequence[Original], count: int, seed: int) -> Iterator[Input]:
    """Every original, once a reading, then ``count`` damaged ones; a function of the seed."""
    whole = [(original, reading) for original in originals for reading in original.readings]
    for number, (original, reading) in enumerate(whole, -len(whole)):
        yield Input(number, original, WELL, original.files[original.name], reading)
    kinds = list(DAMAGES)
    for number in range(count):
        random = Random(f"{seed} {number}")
        kind = kinds[number % len(kinds)]
        original = random.choice([original for original in originals if original.kind == kind])
        name = random.choice(list(DAMAGES[kind]))
        content = DAMAGES[kind][name](random, original, originals)
        yield Input(number, original, name, content, random.choice(original.readings))


def read_all(
    chosen: Sequence[Input] | Iterator[Input], total: int, world: Path, seconds: float
) -> Iterator[Result]:
    """Read inputs in a folder ``world``, beside which lies one that none may open."""
    outside, folder = world / "outside", world / "input"
    _write_outside(outside)
    canary = Canary(outside)
    reader = Reader(world / "log", seconds, libraries=LIBRARIES)
    try:
        for item in track(chosen, "Reading", total, transient=True):
            write(item, folder, outside)
            outcome = reader.read(item.reading, folder)
            if opened := canary.opened():
                outcome = Outcome("opened outside", f"{opened}\n{outcome.detail}", outcome.seconds)
            if item.damage == WELL and outcome.verdict not in {"well", *BAD}:
                outcome = Outcome("crashed", f"undamaged, but {outcome.detail}", outcome.seconds)
            yield Result(item, outcome)
    finally:
        reader.close()
        canary.close()


def write(item: Input, folder: Path, outside: Path) -> None:
    """Make the folder of an input anew."""
    if folder.exists():
        rmtree(folder)
    files = {**item.original.files, item.original.name: item.content}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    target = folder / item.original.name
    target.write_bytes(item.content.replace(OUTSIDE.encode(), str(outside).encode()))
    if item.original.media:  # ways out that a name may take
        (folder / "media" / "link").symlink_to(outside)
        (folder / "media" / "linked").symlink_to(outside / "secret")
        for link in ("linked.mp4", "bare.mkv"):
            (folder / "media" / link).symlink_to(outside / "secret.mp4")
        (folder / "media" / "round").symlink_to("round")


def summary(results: Sequence[Result]) -> Table:
    """A row a kind of input and of damage."""
    table = Table(title=f"{len(results)} inputs", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("input, and what was done to it", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", style="bold red" if column in BAD else "")

    def row(name: str, chosen: Sequence[Result]) -> None:
        counts = Counter(result.outcome.verdict for result in chosen)
        table.add_row(name, *(str(counts[column] or "·") for column in _COLUMNS))

    for kind in DAMAGES:
        of_kind = [result for result in results if result.input.original.kind == kind]
        row(f"[bold]{kind}", of_kind)
        for damage in (WELL, *DAMAGES[kind]):
            row(f"  {damage}", [result for result in of_kind if result.input.damage == damage])
    row("[bold]all", results)
    return table


def keep(result: Result, folder: Path, kept: Path) -> None:
    """Copy what was read, with what happened."""
    item, outcome = result
    name = f"{item.number} {Path(item.original.name).name} {item.damage}".replace(" ", "-")
    copytree(folder, kept / name / "input", symlinks=True)
    (kept / name / "outcome.txt").write_text(
        f"{item.original.name}, {item.damage}, read by {item.reading}:\n"
        f"{outcome.verdict} after {outcome.seconds:.1f} s\n{outcome.detail}\n"
    )


def main() -> int:
    """Print the table, and what must not be; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2400, help="damaged inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10, help="limit of a reading")
    parser.add_argument("--only", type=int, help="read the input of this number, and no other")
    options = parser.parse_args()
    originals = make_originals()
    chosen: Iterator[Input] = inputs(originals, options.count, options.seed)
    if options.only is not None:
        chosen = (item for item in chosen if item.number == options.only)
    total = options.count + sum(len(original.readings) for original in originals)
    console, results, kept = Console(), [], None
    console.width = max(console.width, 110)
    say = console.print
    with tempfile.TemporaryDirectory() as world:
        for result in read_all(chosen, total, Path(world), options.seconds):
            results.append(result._replace(input=result.input._replace(content=b"")))
            if result.outcome.verdict in BAD or options.only is not None:
                kept = kept or Path(tempfile.mkdtemp(prefix="damaged-inputs-"))
                keep(result, Path(world) / "input", kept)
                item, outcome = result
                what = f"{item.number} {item.original.name}, {item.damage}: {outcome.verdict}"
                say(f"{what}\n{escape(outcome.detail[-_SHOWN:])}", highlight=False, soft_wrap=True)
    console.print(summary(results))
    slowest = sorted(results, key=lambda result: -result.outcome.seconds)[:3]
    console.print(
        "The slowest readings: "
        + ", ".join(
            f"{r.outcome.seconds:.1f} s ({r.input.original.name}, {r.input.damage})"
            for r in slowest
        )
    )
    if kept:
        console.print(f"Kept in {kept}; --seed {options.seed} --only <number> reads one again")
    return int(any(result.outcome.verdict in BAD for result in results))


def _write_outside(folder: Path) -> None:
    files = {"secret.mp4": video(".mp4"), "secret": video(".mp4")}
    files |= {f"secret.{suffix}": b"secret" for suffix in ("mtl", "png", "txt", "json")}
    files |= scene("scene")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
