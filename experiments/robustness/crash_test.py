"""Kills runs at random moments, starts them again, and compares what they make with a whole run.

python -m experiments.robustness.crash_test

Alignment and tuning on a small toy world are killed (SIGKILL, loader workers and all) in every
phase, several times a run. Exit code 1 if one does not end like the run that nobody killed.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.robustness.crash_phases import PHASES
from experiments.robustness.crash_runs import STAGES, Attempt, Target, Victim, World
from experiments.robustness.same_run import differences
from experiments.robustness.toy_runs import clean_up_on_sigterm
from vlynx_pl.progress import duration, track
from vlynx_pl.run_folder import is_finished

_KILLS: Final = 5  # of one run
_ENTRIES: Final = {"step": 8, "checkpoint write": 4}
"""How often at most a phase is begun before a process is killed there; once for all others."""
_ORDER: Final = {"guidance": 0, "report": 2}
"""What comes first and last in a run is killed first and last, to get there at all."""
Item = TypeVar("Item")


def plan(kills: int, seed: str) -> list[Victim]:
    """Runs that are killed so many times together; every phase of a stage has its share."""
    random = Random(seed)
    cells = [(stage, phase) for stage in STAGES for phase in PHASES]
    cells.remove(("tuning", "guidance"))  # it has none
    random.shuffle(cells)
    chosen = list(islice(cycle(cells), kills))
    random.shuffle(chosen)
    victims = []
    for stage in STAGES:
        phases = [phase for its, phase in chosen if its == stage]
        for start in range(0, len(phases), _KILLS):
            order = {**_ORDER, "start-up": random.randrange(3)}
            own = sorted(phases[start:][:_KILLS], key=lambda phase: order.get(phase, 1))
            targets = (
                Target(phase, random.randint(1, _ENTRIES.get(phase, 1)), random.random())
                for phase in own
            )
            victims.append(Victim(stage, tuple(targets)))
    random.shuffle(victims)
    return victims


def in_turns(works: Sequence[Iterator[Item | None]], at_once: int) -> Iterator[Item]:
    """What works yield, several of them at a time; each is looked at every millisecond."""
    waiting = list(works)
    active: list[Iterator[Item | None]] = []
    try:
        while waiting or active:
            while waiting and len(active) < at_once:
                active.append(waiting.pop(0))
            for work in list(active):
                try:
                    if (item := next(work)) is not None:
                        yield item
                except StopIteration:
                    active.remove(work)
            time.sleep(0.001)
    finally:
        for work in active:
            work.close()  # type: ignore[attr-defined]


def attack(world: World, kills: int, seed: int, at_once: int) -> Iterator[Attempt]:
    """Kill runs until so many kills are done, also for those that ended before they were killed."""
    done, number = 0, count(1)
    for again in count():
        victims = plan(kills - done, f"{seed} {again}")
        before = done
        for ended in in_turns([world.live(v, str(next(number))) for v in victims], at_once):
            done += ended.killed
            yield ended
        if done in {before, kills}:
            return


def table(world: World, attempts: Sequence[Attempt], wrong: Mapping[Path, list[str]]) -> Table:
    """Where kills fell, and what became of the runs; a column a stage."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("where the kills fell", no_wrap=True)
    for stage in STAGES:
        table.add_column(stage, justify="right")
    of = {stage: [each for each in attempts if each.stage == stage] for stage in STAGES}
    runs = {stage: {each.run for each in of[stage]} for stage in STAGES}

    def fallen(name: str, phases: Sequence[str]) -> None:
        numbers = [sum(e.killed and e.place.phase in phases for e in of[s]) for s in STAGES]
        table.add_row(name, *(str(number or "·") for number in numbers))

    def right(name: str, is_right: Callable[[Path], bool]) -> None:
        numbers = {stage: sum(map(is_right, runs[stage])) for stage in STAGES}
        style = "bold red" if any(numbers[s] < len(runs[s]) for s in STAGES) else ""
        table.add_row(name, *(f"{numbers[s]} of {len(runs[s])}" for s in STAGES), style=style)

    def total(name: str, cell: Callable[[str], str]) -> None:
        table.add_row(name, *map(cell, STAGES))

    for phase in PHASES:
        fallen(phase, [phase])
    fallen("[bold]all", PHASES)
    table.add_section()
    right("runs finished", is_finished)
    right("adapter equal", lambda run: not _about("adapters", wrong[run]))
    right("metrics.csv equal", lambda run: not _about("metrics.csv", wrong[run]))
    right("all else equal, too", lambda run: not wrong[run])
    table.add_section()
    total("processes", lambda stage: str(len(of[stage])))
    total("steps done twice", lambda stage: _twice(world, of[stage], len(runs[stage])))
    total("files left half written", lambda stage: str(sum(map(_half_written, runs[stage]))))
    return table


def _about(file: str, wrong: Sequence[str]) -> bool:
    return any(what.startswith(file) for what in wrong)


def _twice(world: World, attempts: Sequence[Attempt], runs: int) -> str:
    done = sum(attempt.place.steps for attempt in attempts)
    needed = runs * world.whole[attempts[0].stage].place.steps if attempts else 0
    return f"{done - needed} of {needed}"


def _half_written(run: Path) -> int:
    return sum(1 for _ in run.rglob(".*.unfinished"))


def main() -> int:
    """Print the table, and what must not be; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    clean_up_on_sigterm()
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="crash-test-"))
    keep = False
    try:
        world, attempts = World(folder), list[Attempt]()
        making: list[Callable[[], None]] = [world.make]
        making += [partial(world.run_whole, stage) for stage in STAGES]
        for make in track(making, "Running without kills"):
            make()
        attacking = attack(world, options.kills, options.seed, options.at_once)
        for _ in track(_kills(attacking, attempts), "Killing", options.kills):
            pass
        wrong = verdicts(world, attempts)
        console.print(table(world, attempts, wrong))
        for run, what in wrong.items():
            for each in what:
                console.print(f"[bold red]{run.name}:[/] {escape(each)}")
        missing = options.kills - sum(attempt.killed for attempt in attempts)
        if missing:
            console.print(f"[bold red]{missing} kills came too late, process after process")
        console.print(f"It took {duration(time.monotonic() - began)}.")
        if keep := any(wrong.values()):
            console.print(f"All runs are kept in {folder}")
        return int(keep or missing > 0)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def verdicts(world: World, attempts: Sequence[Attempt]) -> dict[Path, list[str]]:
    """Run → what is wrong with it."""
    last = {attempt.run: attempt for attempt in attempts}
    return {
        run: [attempt.failure]
        if attempt.failure
        else differences(run, world.whole[attempt.stage].run)
        for run, attempt in last.items()
    }


def _kills(attacking: Iterator[Attempt], attempts: list[Attempt]) -> Iterator[Attempt]:
    """Note every process, and hand on those that were killed."""
    for attempt in attacking:
        attempts.append(attempt)
        if attempt.killed:
            yield attempt


if __name__ == "__main__":
    sys.exit(main())
