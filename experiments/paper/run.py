"""Runs the study, several runs at a time, and writes its report; finished runs are not repeated.

``python -m experiments.paper.run [--backbone NAME] [--quick] [--tables TABLE ...]``
or ``make paper``
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import Final, TypeAlias

from experiments.paper.questions import write_questions
from experiments.paper.report import read_csv, write_report
from experiments.paper.study import (
    MODALITIES,
    WORLD_SEED,
    AlignmentRun,
    MomentsRun,
    Study,
    TuningRun,
)
from experiments.paper.tables import TABLES, USUAL, Row
from experiments.toyworld import generate_toyworld
from vlynx_pl.io.interruption import INTERRUPTED, PREEMPTED
from vlynx_pl.io.progress import say, track
from vlynx_pl.runs.provenance import redact_paths

BACKBONES: Final = ("miniature", "miniature_qwen3")
PARTS: Final = [name for name, modality in MODALITIES.items() if not modality.parts]
Run: TypeAlias = AlignmentRun | MomentsRun | TuningRun
_QUESTIONS: Final = 6  # per clip at most


def prepare(study: Study, rows: Sequence[Row]) -> None:
    """Generate the worlds that do not exist yet, and write their questions."""
    tunings = [tuning for row in rows for tuning in row.tunings]
    read = [(tuning.modality, tuning.share) for tuning in tunings]
    read += [(alignment.modality, 1.0) for tuning in tunings for alignment in tuning.needs]
    clips, training = range(study.clips), study.clips - study.held_out
    for name, share in dict.fromkeys(read):
        modality = MODALITIES[name]
        for world in modality.worlds:
            generate_toyworld(study.data / world, world, scenes=study.clips, seed=WORLD_SEED)
        about, some = modality.questions, clips[: max(1, round(share * training))]
        for split, part in (("train", some), ("val", clips[training:])):
            folder = study.questions(about, share)
            write_questions(folder, about, WORLD_SEED, split, part, _QUESTIONS)


def execute(runs: Sequence[Run], study: Study, workers: int, what: str) -> list[str]:
    """Run what has not finished yet, ``workers`` runs at a time.

    Returns:
        The names of runs that failed; the others are run all the same.

    Raises:
        SystemExit: a run was asked to stop, so the study stops too.
    """
    finished = [run for run in dict.fromkeys(runs) if run.result(study).exists()]
    if others := [run.name for run in finished if outdated(run, study)]:
        say(
            f"{len(others)} finished runs had other arguments than they would have today, or are "
            f"older than an alignment that they use, such as {others[0]}; remove their folders to "
            "run them again"
        )
    left = [run for run in dict.fromkeys(runs) if run not in finished]
    failed = []
    for name, code in track(_executed(left, study, workers), what, len(left)):
        if code in {PREEMPTED, INTERRUPTED}:
            say(f"{name} was asked to stop; the same command resumes the study")
            sys.exit(code)
        if code:
            failed.append(name)
            say(f"{name} ended with {code}; see {study.runs / name}.log")
    return failed


def outdated(run: Run, study: Study) -> bool:
    """Return whether a finished run had other arguments, or is older than a run that it needs."""
    result = run.result(study)
    _, *arguments = json.loads(result.read_text())["provenance"]["command"]
    if arguments != redact_paths(run.command(study)):
        return True
    needed = (need.result(study) for need in run.needs)
    return any(n.exists() and n.stat().st_mtime > result.stat().st_mtime for n in needed)


def _executed(runs: Sequence[Run], study: Study, workers: int) -> Iterator[tuple[str, int]]:
    pool, stopped = ThreadPoolExecutor(workers), Event()

    def execute_one(run: Run) -> int | None:
        if stopped.is_set():
            return None
        code = run_module(run.module, run.command(study), study.runs / f"{run.name}.log")
        if code in {PREEMPTED, INTERRUPTED}:
            stopped.set()
        return code

    try:
        futures = {pool.submit(execute_one, run): run.name for run in runs}
        for future in as_completed(futures):
            if (code := future.result()) is not None:
                yield futures[future], code
    finally:
        pool.shutdown(cancel_futures=True)  # the others are not started


def run_module(module: str, arguments: list[str], log: Path) -> int:
    """Run a module in a process with one thread, with its output in ``log``; return its code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, *arguments]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        return subprocess.run(
            command, stdout=file, stderr=file, env=one_thread, check=False
        ).returncode


def main() -> None:
    """Run the given tables one after the other, and write the report after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two tables, one seed, few steps")
    parser.add_argument("--tables", nargs="+", choices=TABLES, help=f"default: {', '.join(USUAL)}")
    parser.add_argument("--modalities", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 1 2 3")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--data", type=Path, default=Path("data/paper"))
    parser.add_argument("--runs", type=Path, help="default: runs/paper, with the backbone's name")
    parser.add_argument(
        "--out", type=Path, help="folder of the report; default: that of this file, or in it"
    )
    parser.add_argument(
        "--missing", action="store_true", help="leave out runs whose scores are in results.csv"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at a time")
    options = parser.parse_args()
    first = options.backbone == BACKBONES[0]
    runs = options.runs or Path("runs", "paper" if first else f"paper-{options.backbone}")
    study = Study(options.data, runs, backbone=options.backbone)
    tables, seeds = USUAL, [1, 2, 3]
    out = Path("experiments/paper", "" if first else study.backbone)
    if options.quick:
        study = Study(options.data / "quick", runs / "quick", 200, 50, 30, 60, study.backbone)
        tables, seeds, out = USUAL[:2], [1], study.runs
    tables, seeds, out = options.tables or tables, options.seeds or seeds, options.out or out
    wanted = {
        name: [row for row in TABLES[name](seeds) if row.modality in options.modalities]
        for name in tables
    }
    if options.missing:
        known = {line["run"] for line in read_csv(out / "results.csv")}
        wanted = {name: [row.without(known) for row in rows] for name, rows in wanted.items()}
    prepare(study, [row for rows in wanted.values() for row in rows])
    failed: set[str] = set()
    for name, rows in wanted.items():
        tunings = [tuning for row in rows for tuning in row.tunings]
        needed = dict.fromkeys(need for tuning in tunings for need in tuning.needs)
        guided = [run for run in needed if run.needs]
        first = [run for run in needed if not run.needs]
        for what, runs in (
            ("alignments", first),
            ("for others", guided),
            ("tunings", tunings),
        ):
            possible = [run for run in runs if failed.isdisjoint(r.name for r in (run, *run.needs))]
            failed |= set(execute(possible, study, options.workers, f"{name}: {what}"))
        write_report(out, study, seeds)
        say(f"{out / 'RESULTS.md'} contains the results so far")
    if failed:
        sys.exit(
            f"{len(failed)} runs failed: {', '.join(sorted(failed))}; the same command tries again"
        )


if __name__ == "__main__":
    main()
