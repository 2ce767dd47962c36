"""Runs the study, several runs at a time, and writes its report; finished runs are left alone.

``python -m experiments.paper.run [--quick] [--tables TABLE ...]``, or ``make paper``
"""

import argparse
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Final

import torch

from datamodules.processes import PRELOAD, end_with_parent
from experiments.paper.questions import write_questions
from experiments.paper.report import write_report
from experiments.paper.study import SENSES, WORLD_SEED, Alignment, Place, Tuning
from experiments.paper.tables import SINGLE, TABLES, USUAL, Row
from experiments.toyworld import generate_toyworld
from vlynx_pl.io.interruption import INTERRUPTED, NOTED, PREEMPTED
from vlynx_pl.io.progress import say, track
from vlynx_pl.runs.provenance import redact_paths

WORKERS: Final = get_context("forkserver")  # a process that has used torch must not be forked
_QUESTIONS: Final = 6  # of a clip at most


def prepare(place: Place, rows: Sequence[Row]) -> None:
    """Make the worlds where they are not there yet, and write their questions."""
    tunings = [tuning for row in rows for tuning in row.tunings]
    read = [(tuning.sense, tuning.share) for tuning in tunings]
    read += [(alignment.sense, 1.0) for tuning in tunings for alignment in tuning.needs]
    clips, training = range(place.clips), place.clips - place.held_out
    for worlds, share in dict.fromkeys((SENSES[name].worlds, share) for name, share in read):
        for world in worlds:
            generate_toyworld(place.data / world, world, scenes=place.clips, seed=WORLD_SEED)
        folder, some = place.questions(worlds, share), clips[: max(1, round(share * training))]
        for split, part in (("train", some), ("val", clips[training:])):
            write_questions(folder, worlds, WORLD_SEED, split, part, _QUESTIONS)


def execute(runs: Sequence[Alignment | Tuning], place: Place, workers: int, what: str) -> list[str]:
    """Run what has not finished yet, in so many processes, of which 1 is this one.

    Returns:
        The names of runs that failed; the others are run all the same.

    Raises:
        SystemExit: a run was asked to stop, and so is the study.
    """
    finished = [run for run in dict.fromkeys(runs) if run.result(place).exists()]
    if others := [run.name for run in finished if outdated(run, place)]:
        say(
            f"{len(others)} finished runs were begun with other arguments than today's, or before "
            f"an alignment of theirs was made anew, such as {others[0]}; remove their folders to "
            "run them again"
        )
    left = [run for run in dict.fromkeys(runs) if run not in finished]
    failed = []
    for name, code in track(_executed(left, place, workers), what, len(left)):
        if code in {PREEMPTED, INTERRUPTED}:
            say(f"{name} was asked to stop; the same command goes on")
            sys.exit(code)
        if code:
            failed.append(name)
            say(f"{place.runs / name}.log says why it ended with {code}")
    return failed


def outdated(run: Alignment | Tuning, place: Place) -> bool:
    """Whether a finished run is not what it would be today, by its arguments and what it needs."""
    result = run.result(place)
    _, *arguments = json.loads(result.read_text())["provenance"]["command"]
    if arguments != redact_paths(run.command(place)):
        return True
    needed = (need.result(place) for need in run.needs)
    return any(n.exists() and n.stat().st_mtime > result.stat().st_mtime for n in needed)


def _executed(
    runs: Sequence[Alignment | Tuning], place: Place, workers: int
) -> Iterator[tuple[str, int]]:
    jobs = {run.name: (run.command(place), place.runs / f"{run.name}.log") for run in runs}
    if workers == 1:
        for name, job in jobs.items():
            yield name, _execute(*job)
        return
    pool, broken = ProcessPoolExecutor(workers, WORKERS, begin_worker), False
    try:
        futures = {pool.submit(_execute, *job): name for name, job in jobs.items()}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:  # and so is every run that is left
                if not broken:
                    say(
                        "A worker was killed, for want of memory perhaps: fewer --workers need less"
                    )
                broken = True
                yield futures[future], 128 + signal.SIGKILL
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C the others are not begun


def begin_worker() -> None:
    """Prepare a process for runs: one thread each, and no life after the study.

    A study that is killed can't stop its workers, which would go on, or wait for ever and keep the
    locks of their run folders.
    """
    torch.set_num_threads(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the server's is for readers
    Thread(target=end_with_parent, daemon=True).start()  # runs go on where they stopped


def _execute(arguments: list[str], log: Path) -> int:
    """The exit code of a command of ``vlynx``, run in this process, whose imports are done."""
    from vlynx_pl.commands.cli import main as vlynx

    with _as_command(["vlynx", *arguments], log):
        try:
            vlynx()
        except SystemExit as end:
            return int(end.code or 0)
        except Exception as error:  # noqa: BLE001 - a bug ends one run of hundreds
            traceback.print_exc()
            say(f"{error!r} ended this run alone; mend it and give the study's command again")
            return 1
    return 0


@contextmanager
def _as_command(command: list[str], log: Path) -> Iterator[None]:
    """Arguments, output and signals are those of a command, and then the study's again."""
    log.parent.mkdir(parents=True, exist_ok=True)
    own, sys.argv = sys.argv, command
    asked = {noted: signal.getsignal(noted) for noted in NOTED}
    # Lightning's handlers were made with the stderr of their time.
    handlers = logging.getLogger("lightning.pytorch").handlers
    handlers = [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        streams = [handler.setStream(file) for handler in handlers]
        try:
            yield
        finally:
            sys.argv = own
            for noted, heard in asked.items():
                signal.signal(noted, heard)
            for handler, stream in zip(handlers, streams, strict=True):
                handler.setStream(stream)


def main() -> None:
    """Run the tables that are asked for, one after the other, and report after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two tables, one seed, few steps")
    parser.add_argument("--tables", nargs="+", choices=TABLES, help=f"else {', '.join(USUAL)}")
    parser.add_argument("--senses", nargs="+", choices=SINGLE, default=SINGLE)
    parser.add_argument("--seeds", nargs="+", type=int, help="else 1 2 3")
    parser.add_argument("--data", type=Path, default=Path("data/paper"))
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--out", type=Path, help="of the report; else experiments/paper")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at a time")
    options = parser.parse_args()
    WORKERS.set_forkserver_preload([*PRELOAD, "vlynx_pl.commands.lightning_cli", "vlynx_pl.tuning"])
    place = Place(options.data, options.runs)
    tables, seeds, out = USUAL, [1, 2, 3], Path("experiments/paper")
    if options.quick:
        place = Place(options.data / "quick", options.runs / "quick", 200, 50, 30, 60)
        tables, seeds, out = USUAL[:2], [1], place.runs
    tables, seeds, out = options.tables or tables, options.seeds or seeds, options.out or out
    wanted = {
        name: [row for row in TABLES[name](seeds) if row.sense in options.senses] for name in tables
    }
    prepare(place, [row for rows in wanted.values() for row in rows])
    failed: set[str] = set()
    for name, rows in wanted.items():
        tunings = [tuning for row in rows for tuning in row.tunings]
        alignments = [alignment for tuning in tunings for alignment in tuning.alignments]
        sources = [alignment.guidance for alignment in alignments if alignment.guidance]
        for what, runs in (("guidance", sources), ("alignments", alignments), ("tunings", tunings)):
            possible = [run for run in runs if failed.isdisjoint(r.name for r in (run, *run.needs))]
            failed |= set(execute(possible, place, options.workers, f"{name}: {what}"))
        write_report(out, place, seeds)
        say(f"{out / 'RESULTS.md'} says what has been found so far")
    if failed:
        sys.exit(
            f"{len(failed)} runs failed: {', '.join(sorted(failed))}; the same command tries again"
        )


if __name__ == "__main__":
    main()
