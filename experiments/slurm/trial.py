"""Stops real jobs of a real SLURM and compares what they make with a run that was not stopped.

python -m experiments.slurm.trial

Two processes align depth of a small toy world. Their job is asked to stop by the signal that SLURM
sends before a time limit, preempted by an urgent job, cancelled and submitted again.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.torch import load_file

from experiments.slurm.cluster import Cluster, UnavailableError, install, running, wait_until

_REPOSITORY: Final = Path(__file__).parents[2]
_VLYNX: Final = Path(sys.executable).with_name("vlynx")
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
            f"--chdir={_REPOSITORY}",
            f"--output={self.log}",
            "--ntasks-per-node=2",
            "--cpus-per-task=1",
            str(_REPOSITORY / _SCRIPT),
            *_OPTIONS,
            MODALITY="3d",
            BACKBONE="miniature",
            SEED="42",
            DATA=str(data),
            RUN=str(run),
            VLYNX=str(_VLYNX),
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
    compare(stopped, whole)


def compare(one: Path, other: Path) -> None:
    """See that two runs made the same, to the last bit.

    Raises:
        AssertionError: they did not; says in what they differ.
    """
    adapter = "adapters/vision-3d/adapter_model.safetensors"
    tensors, others = load_file(one / adapter), load_file(other / adapter)
    _check(tensors.keys() == others.keys(), "the adapters have unlike parts")
    unlike = [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])]
    _check(not unlike, f"{len(unlike)} of {len(tensors)} tensors differ, such as {unlike[:1]}")
    reports = [json.loads((run / "report.json").read_text()) for run in (one, other)]
    for part in ("video", "before", "after"):
        _check(reports[0][part] == reports[1][part], f"the reports differ in {part!r}")
    logs = [(run / "metrics.csv").read_text().splitlines() for run in (one, other)]
    rows = [pair for pair in zip_longest(*logs) if pair[0] != pair[1]]
    _check(not rows, f"metrics.csv differ in {len(rows)} rows, first in {rows[:1]}")


def main() -> int:
    """Say whether all of it holds; it is no failure if there can be no SLURM here."""
    console = Console(soft_wrap=True)
    story = Story(console)
    try:
        install()
    except UnavailableError as reason:
        console.print(f"skipped because {reason}")
        return 0
    signal.signal(signal.SIGTERM, _leave)  # which cleans up
    with tempfile.TemporaryDirectory(prefix="vlynx-slurm-") as name:
        folder = Path(name)
        world, runs = folder / "world", folder / "runs"
        runs.mkdir()
        making = [str(_VLYNX), "toyworld", "3d", f"--out={world}", "--scenes=24", "--seed=0"]
        subprocess.run(making, check=True)
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
    console.print("The stopped run made the same adapter, report and metrics, bit for bit.")
    return 0


def _check(holds: object, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _leave(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
