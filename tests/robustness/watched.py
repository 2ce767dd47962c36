"""Runs readings in another process, and notices if one crashes, hangs or opens other files.

The process serves many readings. If it dies or hangs, the next reading gets a new one.
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
_POLLS: Final = 18_000
_MEMORY: Final = 4 << 30  # bytes that a process may hold beyond what it has at the start
_IN_OPEN: Final = 0x20  # linux/inotify.h
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_OF_PYTHON: Final = ("/dev", "/proc", "/sys", sys.prefix, sys.base_prefix, str(REPOSITORY))
_STARTS: Final = {"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "socket.connect"}


class Outcome(NamedTuple):
    """The result of a reading."""

    verdict: str  # "well", the trouble of a BadSample, or one of BAD
    detail: str = ""


class Canary:
    """Reports what any process, or any C library, opens in a folder (inotify)."""

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
        """Return the paths opened since the last call."""
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
    """A process that runs readings within limits.

    Args:
        log: file for the output of the process.
        cpu: seconds of processor time that a reading may take. Processor time, since on a busy
            machine a reading may take long without hanging.
        libraries: to import before the first reading, which takes seconds.
    """

    def __init__(self, log: Path, cpu=60.0, libraries: tuple[str, ...] = ()) -> None:
        self.log, self.cpu, self.libraries = log, cpu, libraries
        self._process = self._pipe = None

    def read(self, reading: Reading, folder: Path) -> Outcome:
        """Run a reading on a folder."""
        if self._process is None:
            self._start()
        self._pipe.send((reading, folder))
        return self._answer(self.cpu)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        self.log.write_text("")
        self._pipe, other = APART.Pipe()
        arguments = (other, self.log, self.libraries)
        self._process = APART.Process(target=_serve, args=arguments, daemon=True)
        start_server()
        self._process.start()
        other.close()
        if self._answer(math.inf) != Outcome("ready"):
            raise RuntimeError(f"the reading process does not start:\n{self.log.read_text()}")

    def _answer(self, cpu: float) -> Outcome:
        begun = self._cpu_seconds()
        try:
            for _ in range(_POLLS):
                if self._pipe.poll(_POLL_S):
                    return self._pipe.recv()
                if self._cpu_seconds() - begun > cpu:
                    break
            verdict = "too slow"
            self._process.terminate()  # makes it print its stack
        except (EOFError, ConnectionResetError):
            verdict = "died"
        self._process.join()
        code = self._process.exitcode
        self.close()
        said = self.log.read_text(errors="replace")[-20_000:]  # a dump ends with a long list
        return Outcome(verdict, f"exit code {code}\n{said}")

    def _cpu_seconds(self) -> float:
        """Return the processor time of the process."""
        try:
            stat = Path("/proc", str(self._process.pid), "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        user, system = stat.rpartition(") ")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _serve(pipe, log: Path, libraries: tuple[str, ...]) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, chain=True)  # works while C code hangs
    torch.set_num_threads(1)
    for library in libraries:
        import_library(library)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text()
    held = 1024 * int(status.split("VmData:")[1].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (held + _MEMORY, held + _MEMORY))
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
        except BaseException:  # noqa: BLE001  # a panic in Rust is not an Exception
            outcome = Outcome("crashed", traceback.format_exc())
        if strange := watch.end():
            outcome = Outcome("opened outside", f"{strange}\n{outcome}")
        pipe.send(outcome)


class _Watch:
    """Audit hook that records what Python opens, starts or connects to outside the folder."""

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
