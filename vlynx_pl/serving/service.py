"""What the endpoints have in common: from a request to the session of its clip, and jobs on it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeVar

from vlynx_pl.io.errors import UserError
from vlynx_pl.serving.errors import refused
from vlynx_pl.serving.limits import Limits
from vlynx_pl.serving.requests import ChatRequest, Clip, clip_of, decoded
from vlynx_pl.serving.sessions import ServedRun, Session
from vlynx_pl.serving.uploads import ReadingFolder, Uploads
from vlynx_pl.serving.worker import Sessions, Worker

T = TypeVar("T")


class _Key(NamedTuple):
    """What a session depends on."""

    run: str
    clip: tuple[tuple[str, str], ...]  # (kind, id of a file) of each; or ("sample", its name)


class Service:
    """Runs, files and sessions of a server.

    Args:
        runs: that answer.
        limits: of the server.
    """

    def __init__(self, runs: Sequence[ServedRun], limits: Limits) -> None:
        self.runs = {run.name: run for run in runs}
        self.uploads = Uploads(limits)
        self._worker = Worker()
        self._sessions: Sessions[_Key] = Sessions(limits.memory, limits.readers)

    async def session(self, request: ChatRequest) -> Session:
        """The session of a request's clip.

        Raises:
            HTTPException: there is no such run, sample or file.
            UserError: the clip cannot be read.
        """
        if request.model not in self.runs:
            known = ", ".join(self.runs)
            raise refused(404, f"there is no model {request.model!r:.80}; there are {known}")
        run, clip = self.runs[request.model], clip_of(request)
        if clip.sample is not None:
            if clip.sample not in run.samples:
                raise refused(404, f"{run.name} has no sample {clip.sample!r:.80}")
            sample = run.samples[clip.sample]
            key = _Key(run.name, (("sample", clip.sample),))
            found = await self._sessions.get(key, lambda: lambda: Session(run, sample.read()))
        else:
            files = await self._files(clip)
            key = _Key(run.name, tuple(sorted(files.items())))
            begin = lambda: partial(_read, run, self.uploads.reading_folder(files))  # noqa: E731
            found = await self._sessions.get(key, begin)
        self._sessions.trim()
        return found

    async def _files(self, clip: Clip) -> dict[str, str]:
        """Kind → id of an uploaded file; data URLs are stored."""
        files = {}
        for kind, url in clip.urls.items():
            files[kind] = url
            if not url.startswith("file-"):
                content = await asyncio.to_thread(decoded, url)
                files[kind] = (await asyncio.to_thread(self.uploads.store, content, kind)).id
        return files

    async def do(self, session: Session, job: Callable[[], T]) -> T:
        """Do a job on a session in the thread of the model."""
        async with aclosing(self.stream(session, lambda: iter([job()]))) as results:
            return await anext(results)

    async def stream(self, session: Session, job: Callable[[], Iterator[T]]) -> AsyncGenerator[T]:
        """Yield what a job on a session yields, from the thread of the model."""
        try:
            async with aclosing(self._worker.stream(job)) as results:
                async for result in results:
                    yield result
        finally:
            self._sessions.trim()  # the session may have become larger

    @property
    def held(self) -> int:
        """Bytes of all sessions."""
        return sum(self._sessions.sizes().values())

    def forget(self, name: str) -> None:
        """Remove a file, and the sessions that were made of it; raises HTTPException."""
        self.uploads.remove(name)
        self._sessions.drop(lambda key: name in dict(key.clip).values())

    def close(self) -> None:
        """End all threads, and remove all files."""
        self._worker.close()
        self._sessions.close()
        self.uploads.close()


def _read(run: ServedRun, folder: ReadingFolder) -> Session:
    try:
        return Session(run, run.read(folder.path, folder.files))
    except UserError as error:  # the client knows nothing of our folders
        raise UserError(str(error).replace(f"{folder.path}/", "")) from error
    finally:
        folder.remove()
