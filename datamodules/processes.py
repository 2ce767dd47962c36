"""Processes that read or write files: forks of a server process that imports and never computes.

A process that has used torch must not be forked: the fork lacks its thread pools, but relies on
them. So all readers are forks of a server, which is started once.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from threading import Thread
from typing import Final

from typing_extensions import override

PRELOAD: Final = (
    "datamodules.loading.serving",
    *(f"datamodules.modalities.{name}" for name in ("audio", "depth", "ego")),
    "torchaudio",
)
"""What the server imports, so that a reader starts in milliseconds."""

# These may be sent to all processes of a job; the training process decides when its readers end.
_NOT_FOR_READERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Reader(ForkServerProcess):
    """A process that ignores the signals of a job, and ends with the process that started it."""

    @override
    def start(self) -> None:
        with _signals_blocked():  # the first one starts the server, from which all inherit it
            super().start()

    @override
    def run(self) -> None:
        import torch

        torch.set_num_threads(1)
        # The server lives as long as its readers, so they must watch the process that started it.
        Thread(target=end_with_parent, daemon=True).start()
        super().run()

    @override
    def terminate(self) -> None:
        self.kill()  # readers ignore SIGTERM


class _Readers(ForkServerContext):
    Process = Reader


READERS: Final = _Readers()
"""The start method of all processes that read, including those of a DataLoader."""

READERS.set_forkserver_preload(list(PRELOAD))


def start_server() -> None:
    """Start the server, so that its imports run in parallel with those of this process."""
    from multiprocessing.forkserver import ensure_running

    with _signals_blocked():
        ensure_running()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes that start here ignore the signals that are meant for the whole job."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_READERS)
    try:
        resource_tracker.ensure_running()  # as a side effect, this unblocks some of them
        signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_READERS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Wait for the process that started this one, and end with it."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
