"""Jobs of a real SLURM that are stopped make exactly what an undisturbed job makes.

Two processes align depth of the miniature world. Their job gets the signal that SLURM sends before
a time limit, is preempted by an urgent job, and is cancelled and submitted again.
"""

import json
import re
import signal

import pytest

from tests.conftest import REPOSITORY
from tests.processes import wait_until
from tests.robustness.cluster import Cluster, install
from tests.robustness.commands import VLYNX
from tests.robustness.same_run import differences

_SCRIPT = REPOSITORY / "experiments" / "slurm" / "align.sbatch"
_OPTIONS = (
    "--trainer.max_epochs=4",
    "--trainer.log_every_n_steps=1",
    "--data.batch_size=2",
    "--data.num_workers=1",
)


@pytest.fixture
def cluster(tmp_path):
    if reason := install():
        pytest.skip(reason)
    # Otherwise nothing would end the daemons.
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 143))
    (tmp_path / "slurm").mkdir()
    cluster = Cluster(tmp_path / "slurm")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()
        signal.signal(signal.SIGTERM, before)


class Job:
    """An alignment on two processes, submitted with the script for users.

    Args:
        cluster: where to submit it.
        data: folder of the media.
        run: folder of the run.
        place: where it halts.
    """

    def __init__(self, cluster, data, run, place="") -> None:
        self.cluster, self.run = cluster, run
        self.log, self.halt = run.with_suffix(".log"), run.with_suffix(".halt")
        own = run.with_suffix(".yaml")
        halt = {"class_path": "tests.robustness.places.Halt", "init_args": {"file": str(self.halt)}}
        own.write_text(json.dumps({"trainer": {"callbacks": [halt]}}))
        self._expect_start(place)
        self.id = cluster.run(
            "sbatch",
            "--parsable",
            f"--chdir={REPOSITORY}",
            f"--output={self.log}",
            "--ntasks-per-node=2",
            "--cpus-per-task=1",
            str(_SCRIPT),
            f"--config={own}",
            *_OPTIONS,
            MODALITY="3d",
            BACKBONE="miniature",
            SEED="42",
            DATA=str(data),
            RUN=str(run),
            VLYNX=VLYNX,
            ARGS="",
            MASTER_ADDR="127.0.0.1",  # the host name may not resolve
            OMP_NUM_THREADS="1",
        )

    def _expect_start(self, place="") -> None:
        names = [path.stem for path in self.run.glob("checkpoints/step-*.ckpt")]
        self._told, self._begun = len(self._log_text()), max(names, default="")
        for suffix in (".reached", ".asked"):
            self.halt.with_suffix(suffix).unlink(missing_ok=True)
        if place:
            self.halt.write_text(place)

    def start_again(self, place) -> None:
        """Start a requeued job now, rather than minutes later."""
        self._expect_start(place)
        # SLURM would take a start within the second of the requeue for the revoked one.
        self.cluster.run("scontrol", "update", f"JobId={self.id}", "StartTime=now+2")

    def stop(self, *command, state, requeued) -> dict[str, str]:
        """Stop it with a command at its place; it must save, say so, and reach this state."""
        self._wait_for(".reached", {"PENDING", "RUNNING"})
        self.check_start()
        self.cluster.run(*command)
        self._wait_for(".asked")
        self.halt.with_suffix(".reached").unlink()
        found = self.cluster.wait_for_state(self.id, state)
        assert set(re.findall(r"Exited with exit code (\d+)", self.words())) == {"75"}
        assert ("returns to the queue" in self.words()) == requeued, self.words()
        return found

    def _wait_for(self, suffix, states=()) -> None:
        def is_there():
            state = self.cluster.job(self.id)["JobState"]
            assert not states or state in states, f"{state}: ...{self.words()[-4000:]}"
            return self.halt.with_suffix(suffix).exists()

        wait_until(is_there, lambda: f"no {suffix}: ...{self.words()[-4000:]}", 0.5)

    def check_start(self) -> None:
        """Assert that it resumed from its newest checkpoint."""
        assert self._begun in self.words()

    def words(self) -> str:
        """Return the log since the last start."""
        return self._log_text()[self._told :]

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@pytest.mark.slurm
def test_a_stopped_job_resumes_and_makes_the_same(cluster, world, tmp_path, note):
    def tell(what, state, code):
        note("Jobs of SLURM", what, {"SLURM says": state, "exit code": code})

    fails = Job(cluster, tmp_path / "nothing", tmp_path / "fails")
    job = Job(cluster, world, tmp_path / "stopped", "in batch 0.2")
    job.stop("scancel", "--signal=USR1", job.id, state="PENDING", requeued=True)
    tell("asked to stop (SIGUSR1), as before a time limit", "PENDING", "75")

    found = cluster.wait_for_state(fails.id, "FAILED")
    tell("a job without data fails", "FAILED", found["ExitCode"])
    assert (found["ExitCode"], found["Restarts"]) == ("1:0", "0")

    job.start_again("in batch 1.1")
    urgent = ("--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")
    job.stop("sbatch", *urgent, state="PENDING", requeued=False)
    tell("preempted by an urgent job, requeued by SLURM", "PENDING", "75")

    job.start_again("in batch 2.0")
    found = job.stop("scancel", job.id, state="CANCELLED", requeued=False)
    tell("scancel", "CANCELLED", "75")
    assert found["Restarts"] == "2"

    again = Job(cluster, world, job.run)
    found = cluster.wait_for_state(again.id, "COMPLETED")
    again.check_start()
    tell("submitted again, finishes", "COMPLETED", found["ExitCode"])
    assert cluster.job(job.id)["JobState"] == "CANCELLED"

    whole = Job(cluster, world, tmp_path / "whole")
    found = cluster.wait_for_state(whole.id, "COMPLETED")
    wrong = differences(job.run, whole.run)
    tell("the same run, not stopped", "COMPLETED", found["ExitCode"])
    tell("what both made", "the same, bit for bit" if not wrong else "differs", "")
    assert not wrong
