"""Processes that read or write files: copies of a server process that imports and never computes.

A process that has used torch must not be forked: its thread pools are lost in the copy, while the
copy believes that it has them. So all readers come from a fork server, which is started once and
serves loaders and checks alike.
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
"""What the server imports, so that a reader begins in milliseconds."""

# They may be sent to all processes of a job; whoever trains decides when its readers end.
_NOT_FOR_READERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Reader(ForkServerProcess):
    """A process that is deaf to the signals of a job, and ends with the process that started it."""

    @override
    def start(self) -> None:
        with _shielded():  # the first one starts the server, from which all inherit it
            super().start()

    @override
    def run(self) -> None:
        import torch

        torch.set_num_threads(1)
        # The server outlives whoever started it while readers do; so they cannot wait for its end.
        Thread(target=end_with_parent, daemon=True).start()
        super().run()

    @override
    def terminate(self) -> None:
        self.kill()  # it heeds nothing less


class _Readers(ForkServerContext):
    Process = Reader


READERS: Final = _Readers()
"""Start method of all processes that read, for a DataLoader too."""

READERS.set_forkserver_preload(list(PRELOAD))


def start_server() -> None:
    """Have the server begin its imports, which take seconds, beside those of this process."""
    from multiprocessing.forkserver import ensure_running

    with _shielded():
        ensure_running()


@contextmanager
def _shielded() -> Iterator[None]:
    """Processes that start here are deaf to what is meant for the whole job."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_READERS)
    try:
        resource_tracker.ensure_running()  # would unblock some of them below
        signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_READERS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Wait for the process that asked for this one, and end with it."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
