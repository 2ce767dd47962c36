"""Readings in a process of its own, which may crash, hang, grow or open what it should not.

The process serves many readings; when it dies or hangs, the next reading gets a new one.
"""

import ctypes
import faulthandler
import math
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import torch

from datamodules.libraries import import_library
from datamodules.processes import start_server
from datamodules.samples import BadSample
from tests.conftest import REPOSITORY
from tests.processes import APART

BAD: Final = ("crashed", "died", "too slow", "opened outside")
Reading = Callable[[Path], object]

_POLL_S: Final = 0.1
_IN_OPEN: Final = 0x20  # linux/inotify.h
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_OF_PYTHON: Final = ("/dev", "/proc", "/sys", sys.prefix, sys.base_prefix, str(REPOSITORY))
_STARTS: Final = {"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "socket.connect"}


class Outcome(NamedTuple):
    """What became of a reading."""

    verdict: str  # "well", a BadSample's trouble, or one of BAD
    detail: str = ""


class Canary:
    """Tells what was opened in a folder, by any process and by C libraries too (inotify)."""

    def __init__(self, folder: Path) -> None:
        self._system = ctypes.CDLL(None, use_errno=True)
        self._file = self._system.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        self._places = {self._watch(place): place for place in places}

    def _watch(self, folder: Path) -> int:
        watch: int = self._system.inotify_add_watch(self._file, os.fsencode(folder), _IN_OPEN)
        if watch < 0:
            raise OSError(ctypes.get_errno(), "inotify cannot watch", str(folder))
        return watch

    def opened(self) -> list[str]:
        """What was opened since the last call."""
        try:
            events = os.read(self._file, 1 << 16)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size + length
            name = events[at - length : at].rstrip(b"\0").decode()
            found.append(str(self._places[watch] / name))
        return found

    def close(self) -> None:
        os.close(self._file)


class Reader:
    """A process that reads what it is told, within limits.

    Args:
        log: file for what it and its libraries print.
        cpu: seconds of processor time that a reading may take, so that a busy machine is no hang.
        polls: how often at most it is looked for an answer, ten times a second.
        memory: bytes that it may hold beyond what it has at the beginning.
        libraries: to import before the first reading, since that takes seconds.
    """

    def __init__(
        self, log: Path, cpu=60.0, polls=18_000, memory=4 << 30, libraries: tuple[str, ...] = ()
    ) -> None:
        self.log, self.cpu, self.polls, self.memory = log, cpu, polls, memory
        self.libraries = libraries
        self._process = self._pipe = None

    def read(self, reading: Reading, folder: Path) -> Outcome:
        """Have a folder read."""
        if self._process is None:
            self._start()
        self._pipe.send((reading, folder))
        return self._answer(self.cpu, self.polls)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        self.log.write_text("")
        self._pipe, other = APART.Pipe()
        arguments = (other, self.log, self.memory, self.libraries)
        self._process = APART.Process(target=_serve, args=arguments, daemon=True)
        start_server()
        self._process.start()
        other.close()
        if self._answer(math.inf, 18_000) != Outcome("ready"):
            raise RuntimeError(f"the reading process does not start:\n{self.log.read_text()}")

    def _answer(self, cpu: float, polls: int) -> Outcome:
        begun = self._cpu_seconds()
        try:
            for _ in range(polls):
                if self._pipe.poll(_POLL_S):
                    return self._pipe.recv()
                if self._cpu_seconds() - begun > cpu:
                    break
            verdict = "too slow"
            self._process.terminate()  # which makes it print where it is
        except (EOFError, ConnectionResetError):
            verdict = "died"
        self._process.join()
        code = self._process.exitcode
        self.close()
        said = self.log.read_text(errors="replace")[-4000:]
        return Outcome(verdict, f"exit code {code}\n{said}")

    def _cpu_seconds(self) -> float:
        """Processor time that the process has taken."""
        try:
            stat = Path("/proc", str(self._process.pid), "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        user, system = stat.rpartition(") ")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _serve(pipe, log: Path, memory: int, libraries: tuple[str, ...]) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, chain=True)  # SIGTERM, also while C code hangs
    torch.set_num_threads(1)
    for library in libraries:
        import_library(library)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text()
    held = 1024 * int(status.split("VmData:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (held + memory, held + memory))
    watch = _Watch()
    sys.addaudithook(watch)
    pipe.send(Outcome("ready"))
    while True:
        reading, folder = pipe.recv()
        watch.begin(folder)
        try:
            reading(folder)
            outcome = Outcome("well")
        except BadSample as bad:
            whole = bad.reason and bad.remedy
            outcome = Outcome(
                bad.trouble if whole else "crashed",
                str(bad) if whole else f"says too little: {bad}",
            )
        except BaseException:  # noqa: BLE001  # panics of Rust are no Exception
            outcome = Outcome("crashed", traceback.format_exc())
        if strange := watch.end():
            outcome = Outcome("opened outside", f"{strange}\n{outcome}")
        pipe.send(outcome)


class _Watch:
    """Audit hook: what Python opens, starts or connects to that is none of its business."""

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] | None = None
        self._strange: list[str] = []

    def begin(self, folder: Path) -> None:
        self._allowed, self._strange = (*_OF_PYTHON, str(folder.resolve())), []

    def end(self) -> list[str]:
        self._allowed = None
        return self._strange

    def __call__(self, event: str, arguments: tuple) -> None:
        if self._allowed is None:
            return
        if event in _STARTS:
            self._strange.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            place = os.path.realpath(os.fsdecode(arguments[0]))
            if not any(place == root or place.startswith(f"{root}/") for root in self._allowed):
                self._strange.append(place)
