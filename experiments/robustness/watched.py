"""Readings in a process of its own, which may crash, hang, grow or open what it should not.

The process serves many readings; when it dies or hangs, the next reading gets a new one.
"""

import ctypes
import faulthandler
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from datamodules.libraries import import_library
from datamodules.processes import start_server
from datamodules.samples import BadSample

BAD: Final = ("crashed", "died", "too slow", "opened outside")
Reading = Callable[[Path], object]

_PATIENCE_S: Final = 600  # for a process to start or to end
_IN_OPEN: Final = 0x20  # linux/inotify.h
_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_REPOSITORY: Final = Path(__file__).parents[2]
_OF_PYTHON: Final = ("/dev", "/proc", "/sys", sys.prefix, sys.base_prefix, str(_REPOSITORY))
_STARTS: Final = {"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "socket.connect"}


class Outcome(NamedTuple):
    """What became of a reading."""

    verdict: str  # "well", a BadSample's trouble, or one of BAD
    detail: str = ""
    seconds: float = 0


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
        """Watch no longer."""
        os.close(self._file)


class Reader:
    """A process that reads what it is told, within limits.

    Args:
        log: file for what it and its libraries print.
        seconds: limit of a reading.
        memory: bytes that it may hold beyond what it has at the beginning.
        libraries: to import before the first reading, since that takes seconds.
    """

    def __init__(
        self, log: Path, seconds: float, memory: int = 4 << 30, libraries: Sequence[str] = ()
    ) -> None:
        self.log, self.seconds, self.memory, self.libraries = log, seconds, memory, libraries
        self._context = get_context("forkserver")
        self._process: Any = None
        self._pipe: Any = None

    def read(self, reading: Reading, folder: Path) -> Outcome:
        """Have a folder read."""
        if self._process is None:
            self._start()
        started = time.monotonic()
        self._pipe.send((reading, folder))
        verdict, detail = self._answer(self.seconds)
        return Outcome(verdict, detail, time.monotonic() - started)

    def answered(self, seconds: float) -> bool:
        """Wait for the answer of a reading, no longer than its limit; whether it is there."""
        there: bool = self._pipe.poll(seconds)
        return there

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        self.log.write_text("")
        self._pipe, other = self._context.Pipe()
        arguments = (other, self.log, self.memory, self.libraries)
        self._process = self._context.Process(target=_serve, args=arguments, daemon=True)
        start_server()
        self._process.start()
        other.close()
        if self._answer(_PATIENCE_S) != ("ready", ""):
            raise RuntimeError(f"the reading process does not start:\n{self.log.read_text()}")

    def _answer(self, seconds: float) -> tuple[str, str]:
        try:
            if self.answered(seconds):
                answer: tuple[str, str] = self._pipe.recv()
                return answer
            verdict = "too slow"
            self._process.terminate()  # which makes it print where it is
            self._process.join(_PATIENCE_S)
        except (EOFError, ConnectionResetError):
            verdict = "died"
            self._process.join()
        code = self._process.exitcode
        self.close()
        return verdict, f"exit code {code}\n{self.log.read_text(errors='replace')[-4000:]}"


def _serve(pipe: Connection, log: Path, memory: int, libraries: Sequence[str]) -> None:
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
    pipe.send(("ready", ""))
    while True:
        reading, folder = pipe.recv()
        watch.begin(folder)
        try:
            reading(folder)
            answer = ("well", "")
        except BadSample as bad:
            whole = bad.reason and bad.remedy
            answer = (bad.trouble, str(bad)) if whole else ("crashed", f"says too little: {bad}")
        except BaseException:  # noqa: BLE001  # panics of Rust are no Exception
            answer = ("crashed", traceback.format_exc())
        if strange := watch.end():
            answer = ("opened outside", f"{strange}\n{answer}")
        pipe.send(answer)


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

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._allowed is None:
            return
        if event in _STARTS:
            self._strange.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            place = os.path.realpath(os.fsdecode(arguments[0]))
            if not any(place == root or place.startswith(f"{root}/") for root in self._allowed):
                self._strange.append(place)
