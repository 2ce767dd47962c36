"""Supervised workers: each reports what it reads, and one that hangs or dies ends with one error.

Torch's own loader reports that a worker is lost, but not which clip it was reading; it interrupts
the training wherever it happens to be, even in an optimizer step; and it takes a slow worker for
one that hangs. Torch's private names are used only here, and tests pin them.
"""

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
_POLL: Final = 1.0  # s between two looks at workers while no batch arrives
_KILL_WAIT: Final = 5.0  # s for a process to end after SIGKILL
_REAP_WAIT: Final = 60.0  # s for a process to end after its pipes broke, on a busy machine


def make_board(workers: int) -> Tensor:
    """Where workers report what they read, (W, 2): index of the sample, and samples begun.

    It lies in memory that processes share; raises RuntimeError if none is left.
    """
    board = torch.tensor([[_IDLE, 0]] * workers)
    board.share_memory_()  # type: ignore[no-untyped-call]
    return board


@contextmanager
def reported(board: Tensor | None, index: int) -> Iterator[None]:
    """In a worker, report on the board that sample ``index`` is being read."""
    worker = get_worker_info()
    if worker is None or board is None:
        yield
        return
    board[worker.id, 0] = index
    board[worker.id, 1] += 1
    try:
        yield
    except Exception:
        board[worker.id, 0] = _IDLE
        raise
    board[worker.id, 0] = _IDLE  # what ends the process, such as SystemExit, leaves the report


def share_tensors(batch: Any) -> None:
    """Move the tensors in lists and dictionaries to memory that processes share, in place.

    Raises:
        UserError: none is left.
    """
    match batch:
        case Tensor():
            try:
                batch.share_memory_()  # type: ignore[no-untyped-call]
            except RuntimeError as error:
                raise worker_errors.not_shareable(batch.nbytes, error) from error
        case dict():
            share_tensors(list(batch.values()))
        case list():
            for part in batch:
                share_tensors(part)


class SupervisedIter(_MultiProcessingDataLoaderIter):
    """Batches from workers; ends with one error when a worker hangs or dies.

    A worker hangs if, while a batch is awaited, no worker begins or ends a sample for the loader's
    ``timeout`` in s; 0 is forever.

    Args:
        loader: whose batches.
        board: where its workers report what they read.
        reading: index → what a worker reads.
        while_waiting: called at least once a second while a batch is awaited; it may raise.
    """

    # Until torch has set its own:
    _shutdown = True
    _worker_pids_set = False
    _fault: UserError | None = None
    _lost: list[tuple[int, int]] = []  # noqa: RUF012
    _workers: list[Any] = []  # noqa: RUF012

    def __init__(
        self,
        loader: DataLoader[Any],
        board: Tensor,
        reading: Callable[[int], Reading],
        while_waiting: Callable[[], None],
    ) -> None:
        self._board, self._reading, self._while_waiting = board, reading, while_waiting
        # At exit, Python sends its children SIGTERM and waits for them; this comes before.
        util.Finalize(self, _abandon, [ref(self)], exitpriority=0)
        try:
            super().__init__(loader)
            _remove_worker_pids(id(self))  # torch watches children, which these are not
            self._worker_pids_set = False
        except BaseException:
            self.abandon()
            raise
        if not self._pin_memory:  # otherwise a thread receives, for which nobody waits
            # So that a truncated message ends once all processes that could finish it are gone.
            self._worker_result_queue._writer.close()  # type: ignore[attr-defined]

    def abandon(self) -> None:
        """Kill all workers at once, whatever they do; torch would wait for each."""
        self._shutdown = True
        if hasattr(self, "_pin_memory_thread"):
            self._pin_memory_thread_done_event.set()
        self._kill()
        for worker in self._workers:
            worker.join(_KILL_WAIT)
            if worker.is_alive():  # it is stuck in a system call; Python would wait for it at exit
                process._children.discard(worker)  # type: ignore[attr-defined]

    @override
    def _get_data(self) -> Any:
        """The next batch that arrives, in any order."""
        arrived = Event()
        try:
            Thread(target=self._watch, args=(arrived,), daemon=True).start()
            return self._receive()
        except (RuntimeError, OSError, EOFError) as error:  # of torch and its pipes
            fault = self._fault or self._death()
            if fault is None:
                raise
            raise fault from error
        finally:
            arrived.set()

    def _receive(self) -> Any:
        while self._fault is None and not self._lost and not self._ended():
            self._while_waiting()
            arrived, data = self._try_get_data(_POLL)  # type: ignore[no-untyped-call]
            if arrived:
                return data
            if self._pin_memory and not self._pin_memory_thread.is_alive():
                raise RuntimeError("the thread that pins memory has ended")
        raise RuntimeError("a worker hangs or has ended")

    def _watch(self, arrived: Event) -> None:
        """In a thread, since receiving may need a worker's help and never ends without it."""
        pause = min(_POLL, self._timeout / 4) or _POLL
        before, quiet = self._board.tolist(), 0.0
        while not arrived.wait(pause):
            # Count polls rather than seconds, so that a suspended job does not look hung.
            quiet = quiet + pause if (now := self._board.tolist()) == before else 0.0
            before = now
            if 0 < self._timeout <= quiet:
                self._fault = self._hang()
            else:
                self._lost = self._ended()
            if self._fault or self._lost:
                self._kill()  # which also ends the receiving, even of half a message
                return

    def _hang(self) -> UserError:
        for index, _ in self._board.tolist():
            if index != _IDLE:
                return worker_errors.hung(index, self._reading(index), self._timeout)
        return worker_errors.stalled(self._timeout)

    def _death(self) -> UserError | None:
        # The pipes of a process break shortly before it is gone.
        ended = self._ended(_REAP_WAIT)
        lost = self._lost or ended  # in this order: once some are lost, the thread kills the others
        if not lost:
            return None
        index, number = max(lost)  # prefer one that was reading to an idle one
        self._workers[number].join()
        exitcode = self._workers[number].exitcode
        if index == _IDLE:
            return worker_errors.died_idle(exitcode)
        return worker_errors.died(index, self._reading(index), exitcode)

    def _ended(self, seconds: float = 0) -> list[tuple[int, int]]:
        """What the workers that have ended were reading, and their numbers.

        Their exit codes are not read here: only one thread may ask for them.
        """
        ended = connection.wait([worker.sentinel for worker in self._workers], seconds)
        reports = zip(self._workers, self._board.tolist(), strict=True)
        return [
            (index, number)
            for number, (worker, (index, _)) in enumerate(reports)
            if worker.sentinel in ended
        ]

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()


def _abandon(iterator: "ref[SupervisedIter]") -> None:
    """At the end of the process, whether a program or a child of Python's multiprocessing."""
    if (found := iterator()) is not None:
        found.abandon()
