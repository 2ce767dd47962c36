"""Looking at every recording before it is needed: what can be used, and what is bad and why."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from datamodules.loading import EpisodeDataset, FrameDataset
from datamodules.readers import read_all, verdict
from datamodules.recordings import Part, Recording
from datamodules.samples import BadSample, Episode
from vlynx_pl.interruption import Interrupted, asked_to_stop
from vlynx_pl.progress import track

# Most of the time goes to waiting for the disk and to libraries that let other threads run.
_THREADS = 2 * (os.cpu_count() or 1)


@dataclass
class Finding:
    """What became of a recording."""

    part: Part
    name: str
    episode: Episode | None = None
    usable: list[Any] = field(default_factory=list)  # clips or episodes
    bad: list[BadSample] = field(default_factory=list)

    @property
    def left_out(self) -> Episode | None:
        """Of an episode, the questions that are not asked, if there are any."""
        if self.episode is None:
            return None
        asked = {question.id for episode, _ in self.usable for question in episode.questions}
        questions = tuple(one for one in self.episode.questions if one.id not in asked)
        return replace(self.episode, questions=questions) if questions else None


def inspect(
    jobs: Sequence[tuple[Part, Recording]],
    candidates: Callable[[Part, Recording], tuple[list[Any], list[BadSample]]],
    dataset: Callable[[Part, list[Any]], FrameDataset | EpisodeDataset] | None,
    stop: bool,
    title: str,
    readers: int = 0,
    timeout: float = 0,
) -> list[Finding]:
    """Look at recordings, with a progress bar.

    Args:
        jobs: what there should be.
        candidates: clips or episodes of a recording, and what is bad about its questions.
        dataset: decodes them; None leaves them unread.
        stop: raise the first BadSample.
        title: of the progress bar.
        readers: processes that decode, so that one that dies of a file is a bad recording; 0
            decodes in threads of this one.
        timeout: s for a clip or an episode in such a process, 0 being forever.

    Returns:
        What became of each, in order.
    """

    def look(part: Part, recording: Recording) -> Finding:
        finding = Finding(part, recording.name, recording.episode)
        try:
            finding.usable, finding.bad = candidates(part, recording)
        except BadSample as bad:
            finding.bad.append(bad)
        if dataset is not None and readers == 0:
            samples = dataset(part, finding.usable)
            _judge(finding, (verdict(samples, index) for index in range(len(samples))))
        return finding

    findings: dict[int, Finding] = {}
    pool = ThreadPoolExecutor(_THREADS)
    try:
        waiting = [pool.submit(look, *job) for job in jobs]
        outcomes = ((number, job.result()) for number, job in enumerate(waiting))
        if dataset is not None and readers > 0:
            outcomes = _read(outcomes, dataset, readers, timeout)
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
    dataset: Callable[[Part, list[Any]], FrameDataset | EpisodeDataset],
    readers: int,
    timeout: float,
) -> Generator[tuple[int, Finding], None, None]:
    """Findings when all that they found was read, in the order in which that happens."""
    unread: dict[int, Finding] = {}

    def samples() -> Iterator[tuple[int, FrameDataset | EpisodeDataset]]:
        for number, finding in looked_at:
            unread[number] = finding
            yield number, dataset(finding.part, finding.usable)

    with closing(read_all(samples(), readers, timeout, _heed_signals)) as read:
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
