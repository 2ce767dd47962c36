"""Looking at every recording before it is needed: what can be used, and what is bad and why."""

import os
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from datamodules.loading.readers import Job, read_all, verdict
from datamodules.loading.recordings import Expected, Part
from datamodules.loading.serving import Serving
from datamodules.samples import BadSample, Episode
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track

# Most of the time goes to waiting for the disk and to libraries that let other threads run.
_THREADS = 2 * (os.cpu_count() or 1)


@dataclass
class Finding:
    """What became of a recording."""

    part: Part
    name: str
    episode: Episode | None = None
    usable: list[Any] = field(default_factory=list)  # clips or episodes, unread
    bad: list[BadSample] = field(default_factory=list)

    @property
    def left_out(self) -> Episode | None:
        """Of an episode, the questions that are not asked, if there are any."""
        if self.episode is None:
            return None
        asked = {question.id for item in self.usable for question in item.episode.questions}
        questions = tuple(one for one in self.episode.questions if one.id not in asked)
        return replace(self.episode, questions=questions) if questions else None


def inspect(
    jobs: Sequence[tuple[Part, Expected]],
    serving: Serving,
    read: bool,
    stop: bool,
    title: str,
    readers: int = 0,
    timeout: float = 0,
    learnt: bool = True,
) -> list[Finding]:
    """Look at recordings, with a progress bar.

    Args:
        jobs: what there should be.
        serving: makes clips or episodes of a recording.
        read: decode them, or leave them unread.
        stop: raise the first BadSample.
        title: of the progress bar.
        readers: processes that decode, so that one that dies of a file is a bad recording; 0
            decodes in threads of this one.
        timeout: s for a clip or an episode in such a process, 0 being forever.
        learnt: whether questions are to be learnt, or asked only.

    Returns:
        What became of each, in order.
    """

    def look(part: Part, recording: Expected) -> Finding:
        finding = Finding(part, recording.name, recording.episode)
        try:
            finding.usable, finding.bad = serving.items(part, recording, learnt)
        except BadSample as bad:
            finding.bad.append(bad)
        if read and readers == 0:
            reader = serving.reader(part)
            _judge(finding, [verdict(reader, item) for item in finding.usable])
        return finding

    findings: dict[int, Finding] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        waiting = [pool.submit(look, *job) for job in jobs]
        outcomes = ((number, job.result()) for number, job in enumerate(waiting))
        if read and readers > 0:
            outcomes = _read(outcomes, serving, readers, timeout)
        with closing(outcomes):  # and the processes with it
            for number, finding in track(outcomes, title, len(waiting)):
                _heed_signals()
                if stop and finding.bad:
                    raise finding.bad[0]
                findings[number] = finding
    finally:  # what is queued is not worth waiting for
        pool.shutdown(cancel_futures=True)
    return [findings[number] for number in range(len(waiting))]


def _read(
    looked_at: Generator[tuple[int, Finding], None, None],
    serving: Serving,
    readers: int,
    timeout: float,
) -> Generator[tuple[int, Finding], None, None]:
    """Findings when all that they found was read, in the order in which that happens."""
    unread: dict[int, Finding] = {}

    def jobs() -> Generator[Job, None, None]:
        for number, finding in looked_at:
            unread[number] = finding
            yield Job(number, finding.usable, serving.reader(finding.part))

    with closing(read_all(jobs(), readers, timeout, _heed_signals)) as read:
        for number, verdicts in read:
            finding = unread.pop(number)
            _judge(finding, verdicts)
            yield number, finding


def _judge(finding: Finding, verdicts: Iterable[BadSample | None]) -> None:
    found, finding.usable = finding.usable, []
    for candidate, bad in zip(found, verdicts, strict=True):
        if bad is None:
            finding.usable.append(candidate)
        else:
            finding.bad.append(bad)


def _heed_signals() -> None:
    if asked_to_stop():
        raise Interrupted("Stopped while checking the data, as asked. Run the same command again.")
