"""A temporary SLURM cluster of one node on this machine.

Its three daemons, their configuration and everything they write are in one folder, and it uses
ports of its own, so that it does not interfere with another SLURM.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.conftest import REPOSITORY
from tests.processes import wait_until

_PACKAGES: Final = ("slurm-wlm", "munge")  # Debian's
_PROGRAMS: Final = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "scancel")
_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_OTHERS: Final = ("SLURM_", "SBATCH_", "SRUN_")  # prefixes of variables of another SLURM
_POLL: Final = 0.2  # s
# As on many clusters, jobs of one partition can preempt jobs of the other. Timeouts are long, since
# a busy machine may be slow to answer and to save.
_CONFIGURATION: Final = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=1800
MessageTimeout=60
ReturnToService=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


class Cluster:
    """A cluster to submit jobs to; it writes into an existing folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        configuration = f"SLURM_CONF={folder}/slurm.conf"
        self._mark = configuration.encode()  # in the environment of all its processes
        own = dict(item for item in os.environ.items() if not item[0].startswith(_OTHERS))
        self.environment = own | {"PATH": _PATH, "SLURM_CONF": configuration.partition("=")[2]}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str, **variables: str) -> str:
        """Return what a command of SLURM prints; raise RuntimeError if it fails."""
        environment = self.environment | variables
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """Return what SLURM knows about a job: JobState, ExitCode, Restarts, ..."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(item.split("=", 1) for item in shown.split() if "=" in item)

    def wait_for_state(self, job: str, state: str) -> dict[str, str]:
        """Wait until a job is in a state; return what SLURM then knows about it."""
        wait_until(
            lambda: self.job(job)["JobState"] == state,
            lambda: f"job {job} is {self.job(job)['JobState']}, not {state}\n{self.last_words()}",
            _POLL,
        )
        return self.job(job)

    def last_words(self) -> str:
        """Return the ends of the daemons' logs."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(
            f"{log.name}: ...{log.read_text(errors='replace')[-1500:]}" for log in logs
        )

    def start(self) -> None:
        """Start the daemons and wait until they are up."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                folder=self.folder,
                host=socket.gethostname().partition(".")[0],
                ports=_free_ports(2),
                user=pwd.getpwuid(os.getuid()).pw_name,
            )
        )
        munge = {"key-file": key} | {
            f"{name}-file": self.folder / f"munge.{name}" for name in ("pid", "log", "seed")
        }
        options = [f"--{name}={path}" for name, path in munge.items()]
        # --force: accept folders that others may write into, such as /tmp.
        socket_path = self.folder / "munge.socket"
        self._daemon("munged", "--foreground", "--force", f"--socket={socket_path}", *options)
        wait_until(socket_path.exists, self.last_words, _POLL)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D")
        wait_until(self._is_up, self.last_words, _POLL)

    def _daemon(self, *command: str) -> None:
        # In a new session, so that Ctrl-C in a terminal does not reach them.
        with (self.folder / f"{command[0]}.output.log").open("wb") as log:
            daemon = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._daemons.append(daemon)

    def _is_up(self) -> bool:
        try:
            return self.run("sinfo", "--noheader", "--partition=usual", "--format=%T") == "idle"
        except RuntimeError:
            return False  # slurmctld does not answer yet

    def end(self) -> None:
        """Kill everything that it started, including jobs."""
        # Job steps outlive the daemons, so every process with this configuration is killed.
        while found := self._processes():
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(_POLL)
        for daemon in self._daemons:
            daemon.wait()

    def _processes(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or is another user's
                if self._mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found


def install() -> str:
    """Install Debian's SLURM if it is missing; return the reason if that is impossible."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    if not missing:
        return ""
    by_hand = f"apt-get install {' '.join(_PACKAGES)}"
    if shutil.which("apt-get") is None:
        return f"{missing[0]} is missing, and there is no apt-get to install it"
    if os.getuid() != 0:
        return f"{missing[0]} is missing; as root: {by_hand}"
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", *_PACKAGES]):
        done = subprocess.run(
            ["apt-get", *command], env=quiet, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            return f"{by_hand} fails: {reason}"
    return ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
