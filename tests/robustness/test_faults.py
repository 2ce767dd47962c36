"""Faults of long runs on the command line: what the user sees, and what is left.

When the cause is gone, the same command is given again, and its result is compared with that of an
undisturbed run.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from textwrap import shorten
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pytest

from tests.robustness.commands import Ended, Runs, Session
from tests.robustness.same_run import differences

_INT, _TERM, _USR1 = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
_RANKS: Final = {"trainer.devices": 2, "trainer.strategy": "ddp", "model.lora.dropout": 0.0}
_ALIKE: Final = 1e-5  # two ranks sum in another order than one
_TELLING: Final = re.compile(
    r"^(guidance|answers|not-finite|report|predictions)[^/]*$|\.unfinished$"
)


class Fault(NamedTuple):
    """What happens to a run, and what is expected of it.

    Args:
        provoke: runs the command into the fault and returns how it ended.
        code: expected exit code.
        says: pattern of the expected message.
        again: options for the same command afterwards; None if the first one ended well.
        ends: whether the run then ends like an undisturbed one; otherwise it fails again.
    """

    provoke: Callable[[Runs, Path], Ended]
    code: int
    says: str
    again: Mapping[str, Any] | None = MappingProxyType({})
    ends: bool = True


def asked(runs, run, number, place, times=1, **options):
    """Send a signal at a place."""
    session = runs.begin(run, place, **options)
    session.ask(number)
    if times == 2:
        os.kill(session.pid, number)
    return session.end()


def unfinished(runs, run):
    """Copy a run that was stopped in its sixth step, with two checkpoints."""
    former = runs.folder / "stopped"
    if not former.exists():
        asked(runs, former, _TERM, "in batch 1.2")
    shutil.copytree(former, run)


def disk_full(runs, run):
    """Limit the size of files to less than that of a checkpoint."""
    session = runs.begin(run, "before batch 1.1")
    resource.prlimit(session.pid, resource.RLIMIT_FSIZE, (600_000, 600_000))
    return session.end()


def read_only(runs, run):
    """Root ignores permissions, but not a read-only mount."""
    unfinished(runs, run)
    root = os.getuid() == 0
    if root:
        mounting = ["mount", "--bind", run, run]
        if reason := subprocess.run(mounting, capture_output=True, text=True, check=False).stderr:
            pytest.skip(reason.strip())
    try:
        if root:
            subprocess.run(["mount", "-o", "remount,ro,bind", run], check=True)
        else:
            run.chmod(0o500)
        return runs.whole(run)
    finally:
        if root:
            subprocess.run(["umount", run], check=True)
        else:
            run.chmod(0o700)


def data_gone(runs, run):
    """Move the data away, as if a mount were lost."""
    session = runs.begin(run, "in batch 0.2")
    away = runs.data.rename(runs.folder / "away")
    try:
        return session.end()
    finally:
        away.rename(runs.data)


def second_run(runs, run):
    """Start a second run in the folder of one that continues undisturbed."""
    first = runs.begin(run, "in batch 0.2")
    second = Session(runs.command(run), runs.folder / "second.log", runs.folder / "second.halt")
    ended = second.end()
    assert first.end().code == 0, first.said
    return ended


def other_settings(runs, run):
    unfinished(runs, run)
    return runs.whole(run, **{"model.learning_rate": 5e-4})


def damaged(runs, run, count):
    """Cut the newest checkpoints in half, and remove all if the run then fails."""
    unfinished(runs, run)
    for path in sorted((run / "checkpoints").iterdir())[-count:]:
        os.truncate(path, path.stat().st_size // 2)
    ended = runs.whole(run)
    if ended.code:
        shutil.rmtree(run / "checkpoints")
    return ended


def clock_back(runs, run):
    """Give the older checkpoint the newer date."""
    unfinished(runs, run)
    older, newer = sorted((run / "checkpoints").iterdir())
    os.utime(older, (time.time() + 3600, time.time() + 3600))
    os.utime(newer, (0, 0))
    return runs.whole(run)


def worker_hangs(runs, run):
    """Replace files by pipes without a writer, which hang whoever opens them."""
    session = runs.begin(run, "in batch 0.1", **{"data.num_workers": 1, "data.timeout": 20})
    scene = (runs.data / "scannetv2_train.txt").read_text().split()[0]
    depth = runs.data / "scans" / scene / "depth"
    away = depth.rename(depth.with_name("depth-away"))
    depth.mkdir()
    for path in away.iterdir():
        os.mkfifo(depth / path.name)
    try:
        return session.end()
    finally:
        shutil.rmtree(depth)
        away.rename(depth)


def worker_killed(runs, run):
    """Kill a worker, as the system does when memory runs out, but not its fork server."""
    session = runs.begin(run, "in batch 0.1", **{"data.num_workers": 1})
    processes = session.processes()
    for process, parent in processes.items():
        if parent in processes.keys() - {session.pid}:
            os.kill(process, signal.SIGKILL)
    return session.end()


def out_of_memory(runs, run):
    """Limit the memory of the process to what it has."""
    session = runs.begin(run, "before batch 0.0")
    pages = int(Path(f"/proc/{session.pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    resource.prlimit(session.pid, resource.RLIMIT_AS, (size, size))
    return session.end()


def not_finite(runs, run):
    """Set a learning rate with which the same command must fail again."""
    return runs.whole(run, **{"model.learning_rate": 1e30})


def rank_killed(runs, run, rank):
    """Kill one of two processes, for which the other must not wait forever."""
    session = runs.begin(run, "in batch 1.0", **_RANKS)
    started = [session.pid, *filter(_is_second, session.processes())]
    os.kill(started[rank], signal.SIGKILL)
    return session.end()


def _is_second(process) -> bool:
    return b"LOCAL_RANK=1" in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")


def _signal(number, code, place="in batch 1.0", **options):
    says = r"Ended at once" if "times" in options else r"Stopped .*Run the same command again to go"
    again = {name: value for name, value in options.items() if name == "kind"}
    return Fault(partial(asked, number=number, place=place, **options), code, says, again)


FAULTS: Final = {
    "disk full while a checkpoint is written": Fault(
        disk_full, 1, r"Error: .*ckpt could not be written \(File too large\); free some space"
    ),
    "read-only run folder": Fault(read_only, 1, r"Error: .*cannot be written to"),
    "data mount vanishes in mid-run": Fault(data_gone, 1, r"Error: .*[Mm]ount it again"),
    "second run in the same folder": Fault(
        second_run, 1, r"Error: .*is in use by process \d+", None
    ),
    "other settings in an unfinished run": Fault(
        other_settings, 1, r"Error: .*learning_rate=0.001, this command asks for 0.0005"
    ),
    "newest checkpoint damaged": Fault(
        partial(damaged, count=1), 0, r"step-\d+.ckpt cannot be used .*remove", None
    ),
    "all checkpoints damaged": Fault(
        partial(damaged, count=2), 1, r"Error: .*no checkpoint that can be used"
    ),
    "clock set back between two sessions": Fault(clock_back, 0, r"Going on from .*-00000006", None),
    "a file hangs its loader worker": Fault(
        worker_hangs, 1, r"Error: .*has not finished in data\.timeout", {"data.num_workers": 1}
    ),
    "loader worker killed": Fault(
        worker_killed, 1, r"Error: .*was killed by SIGKILL", {"data.num_workers": 1}
    ),
    "out of memory in a step": Fault(out_of_memory, 1, r"Error: out of memory at step 0"),
    "gradient not finite": Fault(
        not_finite, 1, r"Error: the gradient of .* is kept", {"model.learning_rate": 1e30}, False
    ),
    "SIGTERM in a step": _signal(_TERM, 75),
    "SIGUSR1 in a step": _signal(_USR1, 75),
    "Ctrl-C in a step": _signal(_INT, 130),
    "Ctrl-C twice in a step": _signal(_INT, 130, times=2),
    "Ctrl-C at the guidance": _signal(_INT, 130, "start"),
    "SIGTERM at the report": _signal(_TERM, 75, "end of training"),
    "Ctrl-C at the answers": _signal(_INT, 130, "answers 0", kind="answers"),
    "second of two ranks killed": Fault(partial(rank_killed, rank=1), 1, r"Error: ", _RANKS),
    "first of two ranks killed": Fault(partial(rank_killed, rank=0), -9, r"Error: ", _RANKS),
}
IN_EVERY_TEST: Final = "disk full while a checkpoint is written"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == IN_EVERY_TEST else pytest.mark.faults)
        for name in FAULTS
    ],
)
def test_a_fault_is_one_message_and_the_same_command_resumes(name, runs, note):
    fault, run = FAULTS[name], runs.folder / name.replace(" ", "-")
    code, said = fault.provoke(runs, run)
    telling = [line for line in said.splitlines() if re.search(fault.says, line)]
    found, outcome = left(run), ended_as(fault, runs, run)
    message = shorten(telling[-1].replace(f"{runs.folder}/", ""), 260) if telling else ""
    cells = {"exit code": str(code), "message": message, "left in the run folder": found}
    note("Faults", name, {**cells, "same command again": outcome})
    assert (code, bool(telling)) == (fault.code, True), said[-3000:]
    assert not re.search(r"(^|[/ ])\.", found), "a half-written file"
    assert outcome.startswith("ends as" if fault.ends else "fails again")


def left(run) -> str:
    """List what a run folder holds about the run's progress and the fault."""
    steps = sorted(int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/step-*"))
    found = [f"checkpoints of steps {', '.join(map(str, steps))}"] if steps else []
    names = [str(path.relative_to(run)) for path in run.rglob("*")]
    return "; ".join([*found, *sorted(filter(_TELLING.search, names))]) or "nothing"


def ended_as(fault, runs, run) -> str:
    """Give the same command again, and compare the run with the undisturbed one."""
    options = fault.again or {}
    if fault.again is not None and (ended := runs.whole(run, **options)).code:
        return f"fails again, exit code {ended.code}"
    within = _ALIKE if fault.again is _RANKS else 0.0
    whole = runs.undisturbed(
        options.get("kind", "alignment"), options.get("model.lora.dropout", 0.1)
    )
    if wrong := differences(run, whole, within):
        return f"ends differently: {'; '.join(wrong)}"
    return f"ends as if undisturbed, within {within:.0e}" if within else "ends as if undisturbed"
