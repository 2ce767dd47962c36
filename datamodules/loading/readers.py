"""Items that are read to learn whether they can be, in processes that a file may take down."""

import pickle
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Any, Final, NamedTuple

from datamodules.loading import worker_errors
from datamodules.loading.worker_errors import Reading, explained, starting
from datamodules.processes import READERS
from datamodules.samples import BadSample, Clip, EpisodeMedia
from vlynx_pl.io.errors import UserError

_LOOK: Final = 1.0  # s between two looks at readers that say nothing
Reader = Callable[[Any], Any]


class Job(NamedTuple):
    """Items to read, and what reads one."""

    number: int
    items: Sequence[Clip | EpisodeMedia]
    reader: Reader


def verdict(reader: Reader, item: Clip | EpisodeMedia) -> BadSample | None:
    """Read an item and say what is bad about it.

    Raises:
        UserError: the system can no longer give it.
        Exception: a mistake of ours, with a note that names the sample.
    """
    reading = Reading(item.name, item.files)
    try:
        with explained(reading):
            try:
                reader(item)
            except MemoryError as error:
                raise worker_errors.too_large(reading) from error
    except BadSample as bad:
        return bad
    return None


def read_all(
    jobs: Iterable[Job], readers: int, timeout: float, look: Callable[[], None]
) -> Generator[tuple[int, list[BadSample | None]], None, None]:
    """Read items in processes; one that dies, or takes too long, costs its item alone.

    Args:
        jobs: taken when there is a reader for it.
        readers: processes.
        timeout: s for a sample, 0 being forever.
        look: called once a second at least; what it raises ends all readers.

    Yields:
        The number of a job and the verdict on each of its samples, in the order in which they end.

    Raises:
        UserError: the system can no longer give a sample, or processes cannot be started.
        Exception: a mistake of ours in reading.
    """
    jobs, idle, busy = iter(jobs), list[_Reader](), list[_Reader]()
    pause = min(_LOOK, timeout / 4) or _LOOK
    try:
        more = True
        while more or busy:
            while more and len(busy) < readers:
                if (job := next(jobs, None)) is None:
                    more = False
                    break
                if not job.items:
                    yield job.number, []
                    continue
                reader = idle.pop() if idle else _Reader()
                busy.append(reader)
                reader.begin(job)
            before = monotonic()
            wait([reader.pipe for reader in busy], pause)
            look()
            # No more than a look, however long: a job that was suspended has not hung.
            passed = min(monotonic() - before, pause)
            for reader in list(busy):
                reader.hear(passed, timeout)
                if reader.is_done():
                    yield reader.job.number, reader.verdicts
                    busy.remove(reader)
                    idle.append(reader)
    finally:
        for reader in (*idle, *busy):
            reader.end()


class _Reader:
    """A process that reads one job after the other; a new one takes the place of one that died."""

    def __init__(self) -> None:
        self.job: Job
        self.verdicts: list[BadSample | None] = []
        self._quiet = 0.0  # s since it last said anything
        self._start()

    def begin(self, job: Job) -> None:
        self.job, self.verdicts = job, []
        if not self.process.is_alive():  # while it read nothing
            self.pipe.close()
            self._start()
        self._send()

    def is_done(self) -> bool:
        return len(self.verdicts) == len(self.job.items)

    def hear(self, passed: float, timeout: float) -> None:
        """Take note of what it said in ``passed`` s, or that it died or is silent for too long."""
        self._quiet += passed
        try:
            while not self.is_done() and self.pipe.poll():
                match self.pipe.recv():
                    case BadSample() | None as bad:
                        self._note(bad)
                    case error:
                        raise error
        except (EOFError, ConnectionResetError):
            self.process.join()
            self._replace(worker_errors.died_of(self._reading, self.process.exitcode))
        if not self.is_done() and 0 < timeout <= self._quiet:
            self._replace(worker_errors.took_too_long(self._reading, timeout))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    @property
    def _reading(self) -> Reading:
        item = self.job.items[len(self.verdicts)]
        return Reading(item.name, item.files)

    def _note(self, bad: BadSample | None) -> None:
        self.verdicts.append(bad)
        self._quiet = 0.0

    def _replace(self, bad: BadSample) -> None:
        self.end()
        self._note(bad)
        self._start()
        if not self.is_done():
            self._send()

    def _start(self) -> None:
        with starting(1):
            self.pipe, other = READERS.Pipe()
            self.process = READERS.Process(target=_serve, args=(other,), daemon=True)
            self.process.start()
        other.close()

    def _send(self) -> None:
        self._quiet = 0.0
        try:
            self.pipe.send((self.job.reader, self.job.items[len(self.verdicts) :]))
        except BrokenPipeError:
            pass  # it has died, which will be heard
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise worker_errors.cannot_travel(error) from error


def _serve(pipe: Connection) -> None:
    while True:
        try:
            reader, items = pipe.recv()
        except EOFError:
            return
        except (AttributeError, ImportError) as error:
            pipe.send(worker_errors.cannot_travel(error))
            return
        for item in items:
            pipe.send(_said(reader, item))


def _said(reader: Reader, item: Clip | EpisodeMedia) -> BadSample | Exception | None:
    try:
        return verdict(reader, item)
    except UserError as error:
        return error
    except Exception:  # noqa: BLE001  # it is raised where the check is
        return RuntimeError(traceback.format_exc())
