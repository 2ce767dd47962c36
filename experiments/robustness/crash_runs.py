"""Runs on a small toy world that are killed as planned."""

import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from experiments.robustness.crash_phases import PHASES, Place, read_place, write_place
from experiments.robustness.toy_runs import REPOSITORY, command, environment, make_world
from vlynx_pl.run_folder import is_finished

STAGES: Final = ("alignment", "tuning")
_OPTIONS: Final[Mapping[str, Any]] = {
    "checkpoint.minutes": 0.005,
    "data.batch_size": 4,
    "model.lora.dropout": 0.1,
    "trainer.max_epochs": 3,
    "trainer.log_every_n_steps": 7,  # not the last step, where Lightning saves what is logged
}
_WORKERS: Final = {"alignment": 2, "tuning": 0}
_LIMIT_S: Final = 600.0  # of a process; it takes 10 to 30 s
_SHOWN: Final = 2000  # characters of what went wrong


class Target(NamedTuple):
    """When to kill a process.

    Args:
        phase: one of ``crash_phases.PHASES``.
        entry: when it is begun for so manieth time.
        moment: how far into it, as a share of the time that it usually takes.
    """

    phase: str
    entry: int
    moment: float


class Victim(NamedTuple):
    """A run, and the kills that it has to endure, one a process."""

    stage: str
    targets: tuple[Target, ...]


class Attempt(NamedTuple):
    """A process of a run.

    Args:
        stage: one of ``STAGES``.
        run: folder of the run.
        place: where it was at its end.
        killed: whether it was killed as planned.
        failure: what else went wrong, or nothing.
        seconds: phase → how long it took altogether.
    """

    stage: str
    run: Path
    place: Place
    killed: bool
    failure: str
    seconds: Mapping[str, float]


class World:
    """A small toy world, and the runs on it.

    Args:
        folder: empty; everything is written into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: dict[str, Attempt] = {}
        """Stage → a run that nobody kills."""

    def make(self) -> None:
        """Make the world.

        Raises:
            RuntimeError: it could not be made.
        """
        make_world(self.folder / "world", scenes=24)

    def run_whole(self, stage: str) -> None:
        """Run a stage as the others are to end; alignment comes before tuning.

        Raises:
            RuntimeError: it does not end well.
        """
        (ended,) = (each for each in self.live(Victim(stage, ()), "whole") if each)
        if ended.failure:
            raise RuntimeError(f"{stage} fails without being killed: {ended.failure}")
        self.whole[stage] = ended

    def live(self, victim: Victim, name: str) -> Iterator[Attempt | None]:
        """Kill a run as planned and let it end; yields nothing while a process works."""
        run = self.folder / f"{victim.stage}-{name}"
        words = self._command(victim.stage, run)
        for target in (*victim.targets, None):
            patience = self._patience(victim.stage, target)
            ended = yield from attempt(victim.stage, run, words, target, patience)
            yield ended
            if not ended.killed or is_finished(run):
                return

    def _patience(self, stage: str, target: Target | None) -> float:
        """Seconds from the beginning of a phase to the kill."""
        if target is None:
            return 0.0
        whole, phase = self.whole[stage], target.phase
        return target.moment * whole.seconds[phase] / max(whole.place.times(phase), 1)

    def _command(self, stage: str, run: Path) -> list[str]:
        noting = {
            "class_path": "experiments.robustness.crash_phases.Phases",
            "init_args": {"file": str(run.with_suffix(".place"))},
        }
        options = {"data.num_workers": _WORKERS[stage], **_OPTIONS}
        aligned = self.whole["alignment"].run if stage == "tuning" else None
        world = self.folder / "world"
        return command(stage, run, world, [noting], aligned, **options)


def attempt(
    stage: str, run: Path, words: Sequence[str], target: Target | None, patience: float
) -> Generator[None, None, Attempt]:
    """Start a process and kill it when its time has come; yields until it has ended."""
    place, log = run.with_suffix(".place"), run.with_suffix(".log")
    write_place(place, Place())
    with log.open("wb") as output:
        process = subprocess.Popen(
            words,
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, with the loader's workers
        )
    seconds = dict.fromkeys(PHASES, 0.0)
    now, left, due = time.monotonic(), patience, False
    limit = now + _LIMIT_S
    try:
        while process.poll() is None and now < limit and not due:
            yield
            here, before, now = read_place(place), now, time.monotonic()
            seconds[here.phase] += now - before
            if target and here.times(target.phase) >= target.entry:
                # A checkpoint is written where steps and validations begin; they come after.
                if target.phase == "checkpoint write" or here.phase != "checkpoint write":
                    left -= now - before
                due = left <= 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    killed = code == -signal.SIGKILL and due
    failure = ""
    if code and not killed:
        said = log.read_text(errors="replace")[-_SHOWN:]
        failure = f"exit code {code} after {sum(seconds.values()):.0f} s: ...{said}"
    return Attempt(stage, run, read_place(place), killed, failure, seconds)
