"""Stops real jobs of a real SLURM and compares what they make with a run that was not stopped.

python -m experiments.slurm.trial

Two processes align depth of a small toy world. Their job is asked to stop by the signal that SLURM
sends before a time limit, preempted by an urgent job, cancelled and submitted again.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.robustness.same_run import differences
from experiments.robustness.toy_runs import REPOSITORY, VLYNX, clean_up_on_sigterm, make_world
from experiments.slurm.cluster import Cluster, UnavailableError, install, running, wait_until

_STEPS: Final = 6  # that are trained between a start and the next stop; an epoch has 5
_SCRIPT: Final = "experiments/slurm/align.sbatch"
_OPTIONS: Final = (
    "--trainer.max_epochs=12",
    "--trainer.log_every_n_steps=1",
    "--data.num_workers=1",
    "--checkpoint.minutes=0.02",
)
_BROKEN: Final = (AssertionError, TimeoutError, RuntimeError, subprocess.SubprocessError)


class Job:
    """A run of alignment on two processes, submitted with the script that users submit.

    Args:
        cluster: where it runs.
        data: folder of the media.
        run: folder of the run.
    """

    def __init__(self, cluster: Cluster, data: Path, run: Path) -> None:
        self.cluster, self.run = cluster, run
        self.log = run.with_suffix(".log")
        self._told = 0  # characters of the log at the last start
        self._expect_start()
        self.id = cluster.run(
            "sbatch",
            "--parsable",
            f"--chdir={REPOSITORY}",
            f"--output={self.log}",
            "--ntasks-per-node=2",
            "--cpus-per-task=1",
            str(REPOSITORY / _SCRIPT),
            *_OPTIONS,
            MODALITY="3d",
            BACKBONE="miniature",
            SEED="42",
            DATA=str(data),
            RUN=str(run),
            VLYNX=VLYNX,
            ARGS="",
            MASTER_ADDR="127.0.0.1",  # the name of this machine may have no address
            OMP_NUM_THREADS="1",
        )

    @property
    def step(self) -> int:
        """Of the newest checkpoint, 0 without one."""
        names = [path.stem for path in self.run.glob("checkpoints/step-*.ckpt")]
        return max((int(name.partition("-")[2]) for name in names), default=0)

    def train(self) -> None:
        """Wait until it has trained for a while since it was started."""

        def trains() -> bool:
            state = self.cluster.job(self.id)["JobState"]
            _check(state in {"PENDING", "RUNNING"}, f"job {self.id} is {state} and should train")
            return self.step >= self._begun + _STEPS

        wait_until(trains, 180, lambda: f"job {self.id} does not get beyond step {self.step}")
        self.check_start()

    def check_start(self) -> None:
        """See that it began where it stood."""
        begun = not self._begun or f"step-{self._begun:08d}.ckpt" in self.words()
        _check(begun, f"job {self.id} did not go on from step {self._begun}")

    def check_stop(self, state: str, requeued: bool) -> dict[str, str]:
        """See that it saved, said so, and is in the state it should be in."""
        found = self.cluster.wait_for_state(self.id, state)
        codes = set(re.findall(r"Exited with exit code (\d+)", self.words()))
        _check(codes == {"75"}, f"processes of job {self.id} exited with {codes}, not 75")
        did = "goes back into the queue" in self.words()
        _check(did == requeued, f"job {self.id} was {'' if did else 'not '}requeued by its script")
        return found

    def start_again(self) -> None:
        """Start it now, and not when SLURM starts what was requeued, minutes later."""
        self._expect_start()
        # SLURM takes a start in the second of the requeue for one that was revoked by it.
        self.cluster.run("scontrol", "update", f"JobId={self.id}", "StartTime=now+2")

    def words(self) -> str:
        """What the log says since the last start."""
        return self._log_text()[self._told :]

    def _expect_start(self) -> None:
        self._told, self._begun = len(self._log_text()), self.step

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Story:
    """What happened, and when."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.table = Table("s", "what happened", "step", "SLURM says", "exit code", title=_SCRIPT)
        self._start = time.monotonic()

    def tell(self, what: str, step: int | str, state: str, code: str) -> None:
        """Add a row, and print it where the table is still to come."""
        row = (f"{time.monotonic() - self._start:.0f}", what, str(step), state, code)
        self.table.add_row(*row)
        self.console.print("  ".join(row), style="dim", highlight=False)


def trial(cluster: Cluster, world: Path, runs: Path, story: Story) -> None:
    """All that is promised of jobs.

    Raises:
        AssertionError, TimeoutError, RuntimeError: it does not hold.
    """
    stopped, whole = runs / "stopped", runs / "whole"
    fails = Job(cluster, runs / "nothing", runs / "fails")
    job = Job(cluster, world, stopped)
    job.train()
    cluster.run("scancel", "--signal=USR1", job.id)
    job.check_stop("PENDING", requeued=True)
    story.tell("asked to stop (SIGUSR1), as before a time limit", job.step, "PENDING", "75")

    found = cluster.wait_for_state(fails.id, "FAILED")
    story.tell("a job without data fails", "", "FAILED", found["ExitCode"])
    _check(found["ExitCode"] == "1:0" and found["Restarts"] == "0", "it did not fail with 1")

    job.start_again()
    job.train()
    urgent = ("--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")
    cluster.wait_for_state(cluster.run("sbatch", "--parsable", *urgent), "COMPLETED")
    job.check_stop("PENDING", requeued=False)
    story.tell("preempted by an urgent job, requeued by SLURM", job.step, "PENDING", "75")

    job.start_again()
    job.train()
    cluster.run("scancel", job.id)
    found = job.check_stop("CANCELLED", requeued=False)
    story.tell("scancel", job.step, "CANCELLED", "75")
    _check(found["Restarts"] == "2", f"job {job.id} was started again {found['Restarts']} times")

    again = Job(cluster, world, stopped)
    found = cluster.wait_for_state(again.id, "COMPLETED", 300)
    again.check_start()
    story.tell("submitted again, finishes", again.step, "COMPLETED", found["ExitCode"])
    state = cluster.job(job.id)["JobState"]
    _check(state == "CANCELLED", f"the cancelled job is {state}")

    unstopped = Job(cluster, world, whole)
    found = cluster.wait_for_state(unstopped.id, "COMPLETED", 300)
    story.tell("the same run, not stopped", unstopped.step, "COMPLETED", found["ExitCode"])
    wrong = differences(stopped, whole)
    _check(not wrong, f"it did not make the same: {'; '.join(wrong)}")


def main() -> int:
    """Say whether all of it holds; it is no failure if there can be no SLURM here."""
    console = Console(soft_wrap=True)
    story = Story(console)
    try:
        install()
    except UnavailableError as reason:
        console.print(f"skipped because {reason}")
        return 0
    clean_up_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="vlynx-slurm-") as name:
        folder = Path(name)
        world, runs = folder / "world", folder / "runs"
        runs.mkdir()
        make_world(world, scenes=24)
        (folder / "slurm").mkdir()
        try:
            with running(folder / "slurm") as cluster:
                try:
                    trial(cluster, world, runs, story)
                except _BROKEN:
                    for log in runs.glob("*.log"):
                        console.print(f"{log.name}: ...{log.read_text()[-4000:]}", markup=False)
                    console.print(cluster.last_words(), markup=False)
                    raise
        except _BROKEN as error:
            console.print(story.table)
            console.print("[bold red]It does not hold:[/]", escape(str(error)))
            return 1
    console.print(story.table)
    console.print("The stopped run made the same files, bit for bit.")
    return 0


def _check(holds: object, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
