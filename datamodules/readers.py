"""Samples that are read to learn whether they can be, in processes that a file may take down."""

import pickle
import traceback
from collections.abc import Callable, Generator, Iterable
from multiprocessing.connection import Connection, wait
from time import monotonic
from typing import Final

from datamodules import mishaps
from datamodules.loading import EpisodeDataset, FrameDataset
from datamodules.mishaps import explained, starting
from datamodules.processes import READERS
from datamodules.samples import BadSample
from vlynx_pl.errors import UserError

_LOOK: Final = 1.0  # s between two looks at readers that say nothing
Samples = FrameDataset | EpisodeDataset


def verdict(samples: Samples, index: int) -> BadSample | None:
    """Read a sample and say what is bad about it.

    Raises:
        UserError: the system can no longer give it.
        Exception: a mistake of ours, with a note that names the sample.
    """
    reading = samples.reading(index)
    try:
        with explained(reading):
            try:
                samples[index]
            except MemoryError as error:
                raise mishaps.too_large(reading) from error
    except BadSample as bad:
        return bad
    return None


def read_all(
    jobs: Iterable[tuple[int, Samples]], readers: int, timeout: float, look: Callable[[], None]
) -> Generator[tuple[int, list[BadSample | None]], None, None]:
    """Read samples in processes; one that dies, or takes too long, costs its sample alone.

    Args:
        jobs: numbers and what to read, taken when there is a reader for it.
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
                number, samples = job
                if len(samples) == 0:
                    yield number, []
                    continue
                reader = idle.pop() if idle else _Reader()
                busy.append(reader)
                reader.begin(number, samples)
            before = monotonic()
            wait([reader.pipe for reader in busy], pause)
            look()
            # No more than a look, however long: a job that was suspended has not hung.
            passed = min(monotonic() - before, pause)
            for reader in list(busy):
                reader.hear(passed, timeout)
                if reader.is_done():
                    yield reader.number, reader.verdicts
                    busy.remove(reader)
                    idle.append(reader)
    finally:
        for reader in (*idle, *busy):
            reader.end()


class _Reader:
    """A process that reads one job after the other; a new one takes the place of one that died."""

    def __init__(self) -> None:
        self.number = -1
        self.verdicts: list[BadSample | None] = []
        self._samples: Samples
        self._quiet = 0.0  # s since it last said anything
        self._start()

    def begin(self, number: int, samples: Samples) -> None:
        self.number, self._samples, self.verdicts = number, samples, []
        if not self.process.is_alive():  # while it read nothing
            self.pipe.close()
            self._start()
        self._send()

    def is_done(self) -> bool:
        return len(self.verdicts) == len(self._samples)

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
            self._replace(mishaps.died_of(self._reading, self.process.exitcode))
        if not self.is_done() and 0 < timeout <= self._quiet:
            self._replace(mishaps.took_too_long(self._reading, timeout))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    @property
    def _reading(self) -> mishaps.Reading:
        return self._samples.reading(len(self.verdicts))

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
            self.pipe.send((self._samples, len(self.verdicts)))
        except BrokenPipeError:
            pass  # it has died, which will be heard
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise mishaps.cannot_travel(error) from error


def _serve(pipe: Connection) -> None:
    while True:
        try:
            samples, first = pipe.recv()
        except EOFError:
            return
        except (AttributeError, ImportError) as error:
            pipe.send(mishaps.cannot_travel(error))
            return
        for index in range(first, len(samples)):
            pipe.send(_said(samples, index))


def _said(samples: Samples, index: int) -> BadSample | Exception | None:
    try:
        return verdict(samples, index)
    except UserError as error:
        return error
    except Exception:  # noqa: BLE001  # it is raised where the check is
        return RuntimeError(traceback.format_exc())
