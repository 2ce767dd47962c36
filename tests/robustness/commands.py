"""Runs of ``vlynx`` on a miniature world, each in a process of its own that may be halted.

Since importing takes longer than a small run, each process is forked from a server that has
imported everything.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.conftest import REPOSITORY
from tests.processes import begin, wait_until

EPOCHS, BATCHES = 3, 3
VLYNX: Final = str(Path(sys.executable).with_name("vlynx"))
_SCANQA: Final = ("tune/scanqa", "tune/backbones/miniature", "tune/toyworld/scanqa")
_ALIGN_3D: Final = ("align/3d", "align/backbones/miniature")
_CONFIGS: Final = {"alignment": _ALIGN_3D, "tuning": _SCANQA, "answers": _SCANQA}
_OPTIONS: Final = {
    "data.num_workers": 0,
    "data.batch_size": 3,
    "model.lora.dropout": 0.1,
    "checkpoint.minutes": 0,
    "trainer.max_epochs": EPOCHS,
    "trainer.log_every_n_steps": 7,  # not the last step, at which Lightning saves logs
}


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    said: str


class Session:
    """A running ``vlynx`` in its own process group.

    Args:
        command: a command line with the callback :class:`tests.robustness.places.Halt`.
        log: file for its output.
        halt: the file given to Halt.
        place: where to halt, if anywhere.
    """

    def __init__(self, command: Sequence[str], log: Path, halt: Path, place: str = "") -> None:
        self._log, self._halt = log, halt
        for suffix in (".halt", ".reached", ".asked"):
            halt.with_suffix(suffix).unlink(missing_ok=True)
        if place:
            halt.write_text(place)
        self._process = begin(_vlynx, list(command), log)
        self.pid = self._process.pid

    def wait_until_halted(self) -> None:
        """Return when it has reached its place."""
        self._wait_for(".reached")

    def ask(self, number: int) -> None:
        """Send the halted process a signal that asks it to stop."""
        os.kill(self.pid, number)
        self._wait_for(".asked")

    def _wait_for(self, suffix: str) -> None:
        file = self._halt.with_suffix(suffix)
        wait_until(lambda: file.exists() or self._process.exitcode is not None)
        if not file.exists():
            raise RuntimeError(f"it ended earlier: ...{self.said[-3000:]}")

    def end(self) -> Ended:
        """Let it continue, and wait until all its processes have ended."""
        self._halt.with_suffix(".reached").unlink(missing_ok=True)
        try:
            wait_until(lambda: self._process.exitcode is not None and not self.processes())
        finally:
            self.kill()
        return Ended(self._process.exitcode, self.said)

    def kill(self) -> None:
        """End all its processes at once."""
        if self.processes():
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def processes(self) -> dict[int, int]:
        """Return process → parent of its process and of those it started (workers, ranks)."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                _, _, fields = (entry / "stat").read_text().rpartition(") ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, parent, group, *_ = fields.split()
            if int(group) == self.pid and state != "Z":
                found[int(entry.name)] = int(parent)
        return dict(sorted(found.items()))

    @property
    def said(self) -> str:
        """Everything that it has printed."""
        return self._log.read_text(errors="replace")


def _vlynx(command: Sequence[str], log: Path) -> None:
    os.setsid()
    os.chdir(REPOSITORY)
    os.environ |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    for number, file in ((0, os.devnull), (1, log), (2, log)):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = list(command)

    from vlynx_pl.commands.cli import main

    main()


class Runs:
    """Runs on a world, one after another.

    Args:
        folder: an empty folder for the runs.
        data: folder of the world.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self._sessions: list[Session] = []

    def begin(self, run: Path, place: str = "", **options: Any) -> Session:
        """Start an alignment, or another ``kind``, and wait until it halts at the place."""
        command = self.command(run, **options)
        log, halt = self.folder / f"{len(self._sessions)}.log", self.folder / "place.halt"
        session = Session(command, log, halt, place)
        self._sessions.append(session)
        if place:
            session.wait_until_halted()
        return session

    def whole(self, run: Path, **options: Any) -> Ended:
        """Run a session to its end."""
        return self.begin(run, **options).end()

    def undisturbed(self, kind: str = "alignment", dropout: float = 0.1) -> Path:
        """Return the folder of a run that was not disturbed."""
        run = self.folder / f"undisturbed-{kind}-{dropout}"
        if not run.exists():
            ended = self.whole(run, kind=kind, **{"model.lora.dropout": dropout})
            assert ended.code == 0, ended.said[-3000:]
        return run

    def close(self) -> None:
        """End all processes."""
        for session in self._sessions:
            session.kill()

    def command(self, run: Path, kind: str = "alignment", **options: Any) -> list[str]:
        """Return the command line of a run; adapters come from the undisturbed alignment."""
        callbacks = {"tests.robustness.places.Halt": {"file": str(self.folder / "place.halt")}}
        options = {"run": run, "data.root": self.data, **_OPTIONS, **options}
        if kind == "alignment":
            callbacks["callbacks.ReferenceGuidance"] = {"max_batches": 4}
            callbacks["callbacks.AlignmentReport"] = {"max_batches": 2}
        else:
            options |= {"data.batch_size": 1} if kind == "answers" else {}
            adapter = self.undisturbed() / "adapters" / "vision-3d"
            options["model.streams.modalities"] = json.dumps({"3d": str(adapter)})
            options["data.benchmark.init_args.annotations"] = self.data
        own = Path(f"{run}.yaml")
        listed = [{"class_path": name, "init_args": given} for name, given in callbacks.items()]
        own.write_text(json.dumps({"trainer": {"callbacks": listed}}))
        return [
            *(VLYNX, "test" if kind == "answers" else "fit"),
            *(
                f"--config=experiments/{name}.yaml"
                for name in ("backbones/miniature", *_CONFIGS[kind])
            ),
            f"--config={own}",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
