"""The one thread of the model, and the sessions that it works on."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, Final, Generic, TypeVar

from vlynx_pl.serving.sessions import Session

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_END: Final = object()


class Worker:
    """Does the jobs of the model in order, in one thread.

    Those that wait are bounded by the requests that the server lets in.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "model")

    async def stream(self, job: Callable[[], Iterator[T]]) -> AsyncGenerator[T]:
        """Yield what a job yields, as soon as it does; the job ends when nobody listens."""
        loop, unheard = asyncio.get_running_loop(), Event()
        made: asyncio.Queue[Any] = asyncio.Queue()

        def work() -> None:
            for result in job():
                loop.call_soon_threadsafe(made.put_nowait, result)
                if unheard.is_set():
                    return

        running = loop.run_in_executor(self._thread, work)
        running.add_done_callback(lambda _: made.put_nowait(_END))
        try:
            while (result := await made.get()) is not _END:
                yield result
            await running  # raises what the job has raised
        finally:
            unheard.set()
            running.cancel()  # if it has not begun

    def close(self) -> None:
        """Wait for the job that is under way, and begin no other."""
        self._thread.shutdown(cancel_futures=True)


class Sessions(Generic[K]):
    """The sessions that were used last, as many as fit.

    Args:
        memory: bytes of all of them.
        readers: clips that are read at the same time.
    """

    def __init__(self, memory: int, readers: int) -> None:
        self._memory, self._readers = memory, ThreadPoolExecutor(readers, "reader")
        self._kept: OrderedDict[K, asyncio.Future[Session]] = OrderedDict()

    async def get(self, key: K, begin: Callable[[], Callable[[], Session]]) -> Session:
        """The session of a key; requests for the same key wait for the same reading.

        Args:
            key: of the session.
            begin: called if it is not kept; returns a function that reads it in another thread.

        Raises:
            Exception: what reading raises, to all that wait for it.
        """
        if key not in self._kept:
            loop = asyncio.get_running_loop()
            self._kept[key] = loop.run_in_executor(self._readers, begin())
        self._kept.move_to_end(key)
        reading = self._kept[key]
        try:
            # It goes on if this request is cancelled, as others may wait for it.
            return await asyncio.shield(reading)
        except Exception:
            if self._kept.get(key) is reading:
                del self._kept[key]
            raise

    def sizes(self) -> dict[K, int]:
        """Bytes of each session that is read, the one that was used last at the end."""
        return {
            key: reading.result().nbytes
            for key, reading in self._kept.items()
            if reading.done() and reading.exception() is None
        }

    def trim(self) -> None:
        """Drop the sessions that were used least recently, until the others fit."""
        sizes = self.sizes()
        excess = sum(sizes.values()) - self._memory
        for key, size in sizes.items():
            if excess <= 0:
                return
            del self._kept[key]
            excess -= size

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        """Drop the sessions with unwanted keys."""
        for key in filter(unwanted, list(self._kept)):
            del self._kept[key]

    def close(self) -> None:
        """Wait for what is being read."""
        self._readers.shutdown(cancel_futures=True)
