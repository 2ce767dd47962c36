"""Workers that are watched: what each of them reads, and an end for those that hang or die.

Torch's own loader says that a worker is lost, not which clip it was on; says so wherever the
training happens to be, even amid an optimizer step; and takes a worker that is slow for one that
hangs. Names of torch that are private are used here and nowhere else, and tests pin them.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, process, util
from threading import Event, Thread
from typing import Any, Final
from weakref import ref

import torch
from torch import Tensor
from torch._C import _remove_worker_pids, _set_worker_pids
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from typing_extensions import override

from datamodules import mishaps
from datamodules.mishaps import Reading
from vlynx_pl.errors import UserError

_IDLE: Final = -1
_LOOK: Final = 1.0  # s between two looks at workers that give nothing
_PATIENCE: Final = 5.0  # s for a process to go after SIGKILL
# They may be sent to all processes of a job; whoever trains decides when its workers end.
_NOT_FOR_WORKERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def make_board(workers: int) -> Tensor:
    """Where workers note what they read, (W, 2): index of the sample, and how many it read.

    In memory that processes share; raises RuntimeError where there is none left.
    """
    board = torch.tensor([[_IDLE, 0]] * workers)
    board.share_memory_()  # type: ignore[no-untyped-call]
    return board


@contextmanager
def noted(board: Tensor | None, index: int) -> Iterator[None]:
    """Note on the board, in a worker, that sample ``index`` is being read."""
    worker = get_worker_info()
    if worker is None or board is None:
        yield
        return
    board[worker.id, 0] = index
    board[worker.id, 1] += 1
    try:
        yield
    finally:
        board[worker.id, 0] = _IDLE


def share(batch: Any) -> None:
    """Move the tensors in lists and dictionaries to memory that processes share, in place.

    Raises:
        UserError: there is none left.
    """
    match batch:
        case Tensor():
            try:
                batch.share_memory_()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise mishaps.no_room(batch.nbytes, error) from error
        case dict():
            share(list(batch.values()))
        case list():
            for part in batch:
                share(part)


class Watched(_MultiProcessingDataLoaderIter):
    """Batches of workers; ends with one message when a worker hangs or dies.

    A worker hangs when batches are waited for and no worker begins or ends a clip for the loader's
    ``timeout`` in s, 0 being forever.

    Args:
        loader: whose batches.
        board: where its workers note what they read.
        reading: index → what a worker reads.
    """

    # Until torch has set its own:
    _shutdown = True
    _worker_pids_set = False
    _hung: UserError | None = None
    _workers: list[Any] = []  # noqa: RUF012

    def __init__(
        self, loader: DataLoader[Any], board: Tensor, reading: Callable[[int], Reading]
    ) -> None:
        self._board, self._reading, self._owner = board, reading, os.getpid()
        # Python ends its children by SIGTERM, and waits until they have; this comes before.
        util.Finalize(self, _abandon, [ref(self)], exitpriority=0)
        try:
            with _shielded():
                super().__init__(loader)
            self._tell_of_deaths(False)
        except BaseException:
            self.abandon()
            raise
        for worker in self._workers:
            worker.terminate = worker.kill  # it heeds nothing less

    def abandon(self) -> None:
        """End all workers at once, whatever they do; torch would wait for each."""
        if os.getpid() != self._owner:  # a fork's copy
            return
        self._tell_of_deaths(False)
        self._shutdown = True
        if hasattr(self, "_pin_memory_thread"):
            self._pin_memory_thread_done_event.set()
        self._kill()
        for worker in self._workers:
            worker.join(_PATIENCE)
            if worker.is_alive():  # the system is waiting for a disk; Python would, for the worker
                process._children.discard(worker)  # type: ignore[attr-defined]

    @override
    def _get_data(self) -> Any:
        """The next batch that arrives, in any order."""
        arrived = Event()
        watch = Thread(target=self._watch, args=(arrived,), daemon=True)
        try:
            self._tell_of_deaths(True)
            try:
                watch.start()
                return self._receive()
            finally:
                arrived.set()
                self._tell_of_deaths(False)
        except (RuntimeError, OSError, EOFError) as error:  # of torch and its pipes
            fault = self._hung or self._death()
            if fault is None:
                raise
            self.abandon()
            raise fault from error

    def _receive(self) -> Any:
        while self._hung is None and all(worker.is_alive() for worker in self._workers):
            arrived, data = self._try_get_data(_LOOK)  # type: ignore[no-untyped-call]
            if arrived:
                return data
            if self._pin_memory and not self._pin_memory_thread.is_alive():
                raise RuntimeError("the thread that pins memory has ended")
        raise RuntimeError("a worker hangs or has ended")

    def _watch(self, arrived: Event) -> None:
        """In a thread, since receiving may need a worker's help and has no end without it."""
        look = min(_LOOK, self._timeout / 4) or _LOOK
        before, quiet = self._board.tolist(), 0.0
        while not arrived.wait(look):
            # Looks are counted rather than seconds: a job that was suspended has not hung.
            quiet = quiet + look if (now := self._board.tolist()) == before else 0.0
            before = now
            if 0 < self._timeout <= quiet:
                self._hung = self._hang()
                self._kill()  # which also ends the receiving
                return

    def _hang(self) -> UserError:
        for index, _ in self._board.tolist():
            if index != _IDLE:
                return mishaps.hung(self._reading(index), self._timeout)
        return mishaps.silent(self._timeout)

    def _death(self) -> UserError | None:
        # The pipes of a process break a moment before it is gone, its sentinel is one of them.
        ended = connection.wait([worker.sentinel for worker in self._workers], timeout=_LOOK)
        dead = []
        for worker, (index, _) in zip(self._workers, self._board.tolist(), strict=True):
            if worker.sentinel in ended:
                worker.join()
                dead.append((index, worker.exitcode))
        if not dead:
            return None
        index, exitcode = max(dead)  # rather one that was reading than an idle one
        return mishaps.died(None if index == _IDLE else self._reading(index), exitcode)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def _tell_of_deaths(self, tell: bool) -> None:
        """Let torch interrupt this process when a worker dies, wherever it is.

        Only while it waits for a batch: then even a message of which the dead has sent a half.
        """
        if tell and not self._worker_pids_set:
            _set_worker_pids(id(self), tuple(worker.pid for worker in self._workers))
        if self._worker_pids_set and not tell:
            _remove_worker_pids(id(self))
        self._worker_pids_set = tell


@contextmanager
def _shielded() -> Iterator[None]:
    """Processes that start here are deaf to what is meant for the whole job."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _abandon(iterator: "ref[Watched]") -> None:
    """At the end of the process, be it a program or a child of Python's multiprocessing."""
    if (found := iterator()) is not None:
        found.abandon()
