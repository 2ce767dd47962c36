"""Workers that are watched: what each of them reads, and an end for those that hang or die.

Torch's own loader says that a worker is lost, not which clip it was on; says so wherever the
training happens to be, even amid an optimizer step; and takes a worker that is slow for one that
hangs. Names of torch that are private are used here and nowhere else, and tests pin them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, process, util
from threading import Event, Thread
from typing import Any, Final
from weakref import ref

import torch
from torch import Tensor
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from typing_extensions import override

from datamodules.loading import worker_errors
from datamodules.loading.worker_errors import Reading
from vlynx_pl.io.errors import UserError

_IDLE: Final = -1
_LOOK: Final = 1.0  # s between two looks at workers that give nothing
_PATIENCE: Final = 5.0  # s for a process to go after SIGKILL
_REAPING: Final = 60.0  # s for a process to be gone after its pipes have broken, on a busy machine


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
                raise worker_errors.no_room(batch.nbytes, error) from error
        case dict():
            share(list(batch.values()))
        case list():
            for part in batch:
                share(part)


class SupervisedIter(_MultiProcessingDataLoaderIter):
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
    _fault: UserError | None = None
    _lost: list[tuple[int, int]] = []  # noqa: RUF012
    _workers: list[Any] = []  # noqa: RUF012

    def __init__(
        self, loader: DataLoader[Any], board: Tensor, reading: Callable[[int], Reading]
    ) -> None:
        self._board, self._reading, self._owner = board, reading, os.getpid()
        # Python ends its children by SIGTERM, and waits until they have; this comes before.
        util.Finalize(self, _abandon, [ref(self)], exitpriority=0)
        try:
            super().__init__(loader)
            _remove_worker_pids(id(self))  # torch watches children, which these are not
            self._worker_pids_set = False
        except BaseException:
            self.abandon()
            raise
        if not self._pin_memory:  # else a thread receives, which nobody waits for
            # So a message that is cut off has an end: when all that could write it are gone.
            self._worker_result_queue._writer.close()  # type: ignore[attr-defined]

    def abandon(self) -> None:
        """End all workers at once, whatever they do; torch would wait for each."""
        if os.getpid() != self._owner:  # a fork's copy
            return
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
            watch.start()
            return self._receive()
        except (RuntimeError, OSError, EOFError) as error:  # of torch and its pipes
            fault = self._fault or self._death()
            if fault is None:
                raise
            self.abandon()
            raise fault from error
        finally:
            arrived.set()

    def _receive(self) -> Any:
        while self._fault is None and not self._lost and not self._ended():
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
                self._fault = self._hang()
            else:
                self._lost = self._ended()
            if self._fault or self._lost:
                self._kill()  # which also ends the receiving, be it of half a message
                return

    def _hang(self) -> UserError:
        for index, _ in self._board.tolist():
            if index != _IDLE:
                return worker_errors.hung(self._reading(index), self._timeout)
        return worker_errors.silent(self._timeout)

    def _death(self) -> UserError | None:
        # The pipes of a process break a moment before it is gone.
        lost = self._lost or self._ended(_REAPING)
        if not lost:
            return None
        index, number = max(lost)  # rather one that was reading than an idle one
        self._workers[number].join()
        exitcode = self._workers[number].exitcode
        return worker_errors.died(None if index == _IDLE else self._reading(index), exitcode)

    def _ended(self, seconds: float = 0) -> list[tuple[int, int]]:
        """What the workers that have ended were reading, and their numbers.

        Their exit codes are left alone: they can be asked for by one thread only.
        """
        ended = connection.wait([worker.sentinel for worker in self._workers], seconds)
        notes = zip(self._workers, self._board.tolist(), strict=True)
        return [
            (index, number)
            for number, (worker, (index, _)) in enumerate(notes)
            if worker.sentinel in ended
        ]

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()


def _abandon(iterator: "ref[SupervisedIter]") -> None:
    """At the end of the process, be it a program or a child of Python's multiprocessing."""
    if (found := iterator()) is not None:
        found.abandon()
