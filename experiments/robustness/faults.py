"""Provokes the faults of long runs on the command line, and tells what the user then sees.

Every fault befalls a small run of its own. When its cause is gone, the same command is given again;
what it makes is compared with a run that nothing befell. Exit code 1 if anything is not as it
should be.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.robustness.same_run import differences
from experiments.robustness.small_world import Ended, World
from experiments.robustness.toy_runs import REPOSITORY, clean_up_on_sigterm, environment
from vlynx_pl.progress import track

_ALIKE: Final = 1e-5  # two ranks sum in another order than one
_COLUMNS: Final = ("fault", "exit code", "message", "left in the run folder", "same command again")
_TELLING: Final = re.compile(
    r"^(guidance|answers|not-finite|report|predictions)[^/]*$|\.unfinished$"
)
_SHOWN: Final = 260  # characters of a message


class NotTriedError(Exception):
    """A fault that cannot be provoked here; says why."""


def asked(number: int, place: str, times: int = 1, **options: Any) -> Callable[..., Ended]:
    """A signal that comes at a place."""

    def befall(world: World, run: Path) -> Ended:
        session = world.begin(run, place, **options)
        for _ in range(times):
            os.kill(session.pid, number)
            time.sleep(0.3)
        return world.ended(session, options)

    return befall


def disk_full(world: World, run: Path) -> Ended:
    """No file may grow beyond a size that a checkpoint has."""
    session = world.begin(run, "before step 4")
    resource.prlimit(session.pid, resource.RLIMIT_FSIZE, (600_000, 600_000))
    return world.ended(session, {})


def read_only(world: World, run: Path) -> Ended:
    """Root heeds no permissions, but what is mounted."""
    world.unfinished(run)
    root = os.getuid() == 0
    if root:
        mounting = ["mount", "--bind", run, run]
        if reason := subprocess.run(mounting, capture_output=True, text=True, check=False).stderr:
            raise NotTriedError(reason.strip())
    try:
        if root:
            subprocess.run(["mount", "-o", "remount,ro,bind", run], check=True)
        else:
            run.chmod(0o500)
        return world.whole(run)
    finally:
        if root:
            subprocess.run(["umount", run], check=True)
        else:
            run.chmod(0o700)


def data_gone(world: World, run: Path) -> Ended:
    """As when a mount is lost."""
    session = world.begin(run, "in step 2")
    away = world.data.rename(world.folder / "away")
    try:
        return world.ended(session, {})
    finally:
        away.rename(world.data)


def second_run(world: World, run: Path) -> Ended:
    """The first goes on undisturbed."""
    first = world.begin(run, "in step 2")
    second = subprocess.run(
        world.command(run),
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if first.end():
        raise RuntimeError(f"the first did not end well: ...{first.said[-2000:]}")
    return Ended(second.returncode, second.stderr, {}, again=False)


def other_settings(world: World, run: Path) -> Ended:
    """A run is not gone on with as another one."""
    world.unfinished(run)
    return world.whole(run, **{"model.learning_rate": 5e-4})._replace(options={})


def damaged(count: int) -> Callable[..., Ended]:
    """The newest checkpoints lose their second halves, and are removed afterwards."""

    def befall(world: World, run: Path) -> Ended:
        world.unfinished(run)
        for path in sorted((run / "checkpoints").iterdir())[-count:]:
            os.truncate(path, path.stat().st_size // 2)
        ended = world.whole(run)
        if ended.code == 0:
            return ended._replace(again=False)
        shutil.rmtree(run / "checkpoints")
        return ended

    return befall


def clock_back(world: World, run: Path) -> Ended:
    """The older checkpoint seems to be the newer one."""
    world.unfinished(run)
    older, newer = sorted((run / "checkpoints").iterdir())
    os.utime(older, (time.time() + 3600, time.time() + 3600))
    os.utime(newer, (0, 0))
    return world.whole(run)._replace(again=False)


def worker_hangs(world: World, run: Path) -> Ended:
    """Opening a pipe that nobody writes to never ends."""
    options = {"data.num_workers": 1, "data.timeout": 3}
    session = world.begin(run, "in step 1", **options)
    scene = (world.data / "scannetv2_train.txt").read_text().split()[0]
    depth = world.data / "scans" / scene / "depth"
    away = depth.rename(depth.with_name("depth-away"))
    depth.mkdir()
    for path in away.iterdir():
        os.mkfifo(depth / path.name)
    try:
        return world.ended(session, options)
    finally:
        shutil.rmtree(depth)
        away.rename(depth)


def worker_killed(world: World, run: Path) -> Ended:
    """As the system does when memory runs out."""
    options = {"data.num_workers": 1}
    session = world.begin(run, "in step 1", **options)
    for process in session.processes():
        if process != session.pid:
            os.kill(process, signal.SIGKILL)
    return world.ended(session, options)


def out_of_memory(world: World, run: Path) -> Ended:
    """The process may have no more memory than it has."""
    session = world.begin(run, "before step 0")
    pages = int(Path(f"/proc/{session.pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    resource.prlimit(session.pid, resource.RLIMIT_AS, (size, size))
    return world.ended(session, {})


def not_finite(world: World, run: Path) -> Ended:
    """Its cause is a setting, so that the same command cannot go on."""
    return world.whole(run, **{"model.learning_rate": 1e30})


def rank_killed(rank: int) -> Callable[..., Ended]:
    """One of two processes is gone, and the other may not wait for it."""

    def befall(world: World, run: Path) -> Ended:
        options = {"trainer.devices": 2, "trainer.strategy": "ddp"}
        session = world.begin(run, "in step 3", **options)
        os.kill(session.processes()[rank], signal.SIGKILL)
        killed = time.monotonic()
        ended = world.ended(session, options)
        seconds = time.monotonic() - killed
        return ended._replace(said=f"{ended.said}\n(the other ended {seconds:.1f} s later)")

    return befall


class Fault(NamedTuple):
    """What befalls a run, and what is expected of it.

    Args:
        befall: gives what it led to.
        codes: exit codes that are right.
        says: pattern of the message.
        ends: whether the run ends as if nothing had befallen it; else it fails again.
    """

    befall: Callable[[World, Path], Ended]
    codes: tuple[int, ...]
    says: str
    ends: bool = True


_INT, _TERM, _USR1 = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
_GUIDANCE, _REPORT = "start", "end of training"
_STOPPED = r"Stopped .*Run the same command again to go on"
FAULTS: Final[dict[str, Fault]] = {
    "disk full while a checkpoint is written": Fault(
        disk_full, (1,), r"Error: .*ckpt could not be written \(File too large\); free some space"
    ),
    "read-only run folder": Fault(read_only, (1,), r"Error: .*cannot be written into"),
    "data mount vanishes in mid-run": Fault(data_gone, (1,), r"Error: .*[Mm]ount it again"),
    "second run in the same folder": Fault(second_run, (1,), r"Error: .*is in use by process \d+"),
    "other settings in an unfinished run": Fault(
        other_settings, (1,), r"Error: .*learning_rate=0.001, this command asks for 0.0005"
    ),
    "newest checkpoint damaged": Fault(damaged(1), (0,), r"step-\d+.ckpt cannot be used .*remove"),
    "all checkpoints damaged": Fault(damaged(2), (1,), r"Error: .*no checkpoint that can be used"),
    "clock set back between two sessions": Fault(clock_back, (0,), r"Going on from .*-00000006"),
    "a file hangs its loader worker": Fault(worker_hangs, (1,), r"Error: .*finds no end"),
    "loader worker killed": Fault(worker_killed, (1,), r"Error: .*was killed by SIGKILL"),
    "out of memory in a step": Fault(out_of_memory, (1,), r"Error: out of memory at step 0"),
    "gradient not finite": Fault(not_finite, (1,), r"Error: the gradient of .* is kept", False),
    "SIGTERM in a step": Fault(asked(_TERM, "in step 3"), (75,), _STOPPED),
    "SIGUSR1 in a step": Fault(asked(_USR1, "in step 3"), (75,), _STOPPED),
    "Ctrl-C in a step": Fault(asked(_INT, "in step 3"), (130,), _STOPPED),
    "Ctrl-C twice in a step": Fault(asked(_INT, "in step 3", 2), (130,), r"Ended at once"),
    "Ctrl-C at the guidance": Fault(asked(_INT, _GUIDANCE), (130,), _STOPPED),
    "SIGTERM at the report": Fault(asked(_TERM, _REPORT), (75,), _STOPPED),
    "Ctrl-C at the answers": Fault(asked(_INT, "answers 0", kind="answers"), (130,), _STOPPED),
    "second of two ranks killed": Fault(rank_killed(1), (1,), r"Error: "),
    "first of two ranks killed": Fault(rank_killed(0), (-9,), r"Error: "),
}


def main() -> int:
    """Print the table, and what is wrong; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the table as a Markdown file")
    parser.add_argument("--only", default="", help="only faults whose names match this")
    options = parser.parse_args()
    chosen = {name: fault for name, fault in FAULTS.items() if re.search(options.only, name)}
    clean_up_on_sigterm()
    begun, wrong, rows = time.monotonic(), 0, []
    console = Console()
    console.width = max(console.width, 160)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            for name, fault in track(chosen.items(), "Provoking faults", len(chosen)):
                row, complaint = tell(world, name, fault)
                rows.append(row)
                if options.out:
                    options.out.write_text(markdown(rows))
                if complaint:
                    wrong += 1
                    console.print(f"{name}: {escape(complaint)}", highlight=False, soft_wrap=True)
        finally:
            world.close()
    console.print(table(rows))
    missed = sum(row[-1].startswith("not tried") for row in rows)
    seconds = time.monotonic() - begun
    console.print(f"{len(rows)} faults in {seconds:.0f} s, {wrong} wrong, {missed} not tried")
    return int(wrong > 0)


def tell(world: World, name: str, fault: Fault) -> tuple[tuple[str, ...], str]:
    """A row of the table, and what is wrong if anything is."""
    run = world.folder / name.replace(" ", "-")
    try:
        code, said, options, again = fault.befall(world, run)
        found, ended = left(run), world.whole(run, **options).code if again else 0
    except NotTriedError as reason:
        return (name, "", "", "", f"not tried: {reason}"), ""
    except (RuntimeError, subprocess.CalledProcessError) as error:
        return (name, "", "", "", "broke off"), str(error)
    if ended:
        outcome = f"fails again, exit code {ended}"
    else:
        whole = world.undisturbed(options.get("kind", "alignment"))
        outcome = compared(run, whole, _ALIKE if "trainer.devices" in options else 0.0)
    telling = [line for line in said.splitlines() if re.search(fault.says, line)]
    wrong = []
    if code not in fault.codes:
        wrong.append(f"exit code {code}")
    if not telling:
        wrong.append(f"no message {fault.says!r}")
    if not outcome.startswith("ends as" if fault.ends else "fails again"):
        wrong.append(outcome)
    if re.search(r"(^|[/ ])\.", found):
        wrong.append(f"left a half-written file: {found}")
    complaint = f"{'; '.join(wrong)}. It said: ...{said[-3000:]}" if wrong else ""
    message = (telling or [""])[-1].replace(f"{world.folder}/", "")
    shown = textwrap.shorten(message, _SHOWN, placeholder=" …")
    return (name, str(code), shown, found, outcome), complaint


def left(run: Path) -> str:
    """What a run folder holds that tells how far the run has come, or what befell it."""
    steps = sorted(int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/step-*"))
    found = [f"checkpoints of steps {', '.join(map(str, steps))}"] if steps else []
    names = [str(path.relative_to(run)) for path in run.rglob("*")]
    return "; ".join([*found, *sorted(filter(_TELLING.search, names))]) or "nothing"


def compared(run: Path, whole: Path, within: float) -> str:
    """Whether a run ended as the one that nothing befell, in all that it made."""
    if wrong := differences(run, whole, within):
        return f"ends otherwise: {'; '.join(wrong)}"
    return f"ends as if undisturbed, within {within:.0e}" if within else "ends as if undisturbed"


def table(rows: Sequence[tuple[str, ...]]) -> Table:
    """A row a fault."""
    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in _COLUMNS:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*map(escape, row))
    return made


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """The same as Markdown."""
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    sys.exit(main())
