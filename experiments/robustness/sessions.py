"""``vlynx`` in processes that begin at once, and halt at a place of the run until they are let go.

Importing takes a process longer than a small run. So one has imported everything and forks; in the
fork, the command line runs as ever, up to the end of the interpreter.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from experiments.robustness.toy_runs import REPOSITORY, environment

_LIMIT_S: Final = 600.0  # for a session or the way to a place; it takes 2 to 10 s


class Halt(Callback):
    """Waits at a place of a run while a file says so; must be the first callback.

    Args:
        file: names the place; when the run is there, it is renamed to ``.reached``, and when that
            is removed, the run goes on.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._at("start", trainer)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._at(f"before step {trainer.global_step}", trainer)

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._at(f"in step {trainer.global_step}", trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._at("end of training", trainer)

    @override
    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._at(f"answers {batch_idx}", trainer)

    def _at(self, place: str, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.file.exists() and self.file.read_text() == place:
            reached = self.file.rename(self.file.with_suffix(".reached"))
            while reached.exists():
                time.sleep(0.01)


class Session:
    """A running ``vlynx``.

    Args:
        pid: of the process, which leads a group of its own.
        answers: where its exit code will arrive.
        log: what it prints.
        halt: file of its :class:`Halt`.
    """

    def __init__(self, pid: int, answers: Any, log: Path, halt: Path) -> None:
        self.pid, self._answers, self._log = pid, answers, log
        self._reached = halt.with_suffix(".reached")

    def wait_until_halted(self) -> None:
        """Return when it is at its place; raises RuntimeError where it never gets there."""
        begun = time.monotonic()
        while not self._reached.exists():
            if self._ended(0.01) or time.monotonic() - begun > _LIMIT_S:
                raise self._failed("it did not get there")

    def end(self) -> int:
        """Let it go on, and give its exit code when all its processes have ended."""
        self._reached.unlink(missing_ok=True)
        begun = time.monotonic()
        if not self._ended(_LIMIT_S):
            raise self._failed(f"not over after {_LIMIT_S:.0f} s")
        while self.processes():
            if time.monotonic() - begun > _LIMIT_S:
                raise self._failed("one of its processes stays behind")
            time.sleep(0.01)
        return int(self._answers.readline())

    def kill(self) -> None:
        """End all its processes."""
        if self.processes():
            os.killpg(self.pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """Ids of its process and those that it began: loader workers, ranks."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                _, _, fields = (entry / "stat").read_text().rpartition(") ")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, _, group, *_ = fields.split()
            if int(group) == self.pid and state != "Z":
                found.append(int(entry.name))
        return sorted(found)

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    def _failed(self, what: str) -> RuntimeError:
        self.kill()
        self._answers.readline()  # its exit code; the next answer is for the next session
        return RuntimeError(f"{what}: ...{self.said[-2000:]}")

    def _ended(self, seconds: float) -> bool:
        return bool(select.select([self._answers], [], [], seconds)[0])


class Starter:
    """Starts sessions, one at a time."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            cwd=REPOSITORY,
            env=environment() | {"COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is meant for this program alone
        )

    def start(self, command: Sequence[str], log: Path, halt: Path, place: str = "") -> Session:
        """Start ``command``, which has a :class:`Halt` with a file, to halt at a place if any."""
        halt.unlink(missing_ok=True)
        if place:
            halt.write_text(place)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([list(command), str(log)]).encode() + b"\n")
        answers = self._process.stdout
        self._session = Session(int(answers.readline()), answers, log, halt)
        return self._session

    def close(self) -> None:
        """End the process that forks, and the session if there is one."""
        self._process.kill()
        self._process.wait()
        if self._session is not None:
            self._session.kill()


def _serve() -> None:
    import vlynx_pl.lightning_cli
    from vlynx_pl.cli import main

    assert vlynx_pl.lightning_cli
    while line := sys.stdin.readline():
        command, log = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            sys.argv = command
            for number, file in ((0, os.devnull), (1, log), (2, log)):
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                os.dup2(descriptor, number)
                os.close(descriptor)
            main()
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
