"""Looking at every recording before it is needed: what can be used, and what is bad and why."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any, Final

from datamodules.loading.loader import Loader, SampleDataset
from datamodules.loading.recordings import Expected, Part
from datamodules.loading.serving import Serving
from datamodules.loading.settings import LoadingSettings
from datamodules.loading.worker_errors import WorkerFault
from datamodules.samples import BadSample, Clip, Episode
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track

# Most of the time is spent waiting for the disk, and in libraries that let other threads run.
_THREADS: Final = 2 * (os.cpu_count() or 1)
_AHEAD: Final = 8  # clips that a process may be ahead of the slowest


@dataclass
class Finding:
    """What was found of a recording."""

    part: Part
    name: str
    episode: Episode | None = None
    usable: list[Any] = field(default_factory=list)  # clips or episodes, unread
    bad: list[BadSample] = field(default_factory=list)

    @property
    def left_out(self) -> Episode | None:
        """The episode with the questions that are not asked, if there are any."""
        if self.episode is None:
            return None
        asked = {question.id for item in self.usable for question in item.episode.questions}
        questions = tuple(one for one in self.episode.questions if one.id not in asked)
        return replace(self.episode, questions=questions) if questions else None


def inspect(
    jobs: Sequence[tuple[Part, Expected]],
    serving: Serving,
    settings: LoadingSettings,
    read: bool,
    learnt: bool,
) -> list[Finding]:
    """Look at recordings, with a progress bar.

    Args:
        jobs: the expected recordings.
        serving: makes clips or episodes of a recording.
        settings: with ``num_workers``, a file that kills the process that reads it is one bad
            recording.
        read: decode everything and list all that is bad; otherwise leave it unread and raise the
            first BadSample.
        learnt: whether questions are learnt, or only asked.

    Returns:
        What was found of each, in order.
    """
    title = f"Checking {Path(settings.root).name}"

    def look(part: Part, recording: Expected) -> Finding:
        finding = Finding(part, recording.name, recording.episode)
        try:
            finding.usable, finding.bad = serving.items(part, recording, learnt)
        except BadSample as bad:
            finding.bad.append(bad)
        return finding

    findings: list[Finding] = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        pending = [pool.submit(look, *job) for job in jobs]
        outcomes = (job.result() for job in pending)
        for finding in track(outcomes, title, len(pending), disable=read):
            _raise_if_interrupted()
            if finding.bad and not read:
                raise finding.bad[0]
            findings.append(finding)
    finally:
        pool.shutdown(cancel_futures=True)
    if not read:
        return findings
    found = [(finding, item) for finding in findings for item in finding.usable]
    readers: dict[Part, Callable[[Any], Any]] = {
        part: serving.reader(part) for part in dict.fromkeys(f.part for f in findings)
    }
    clips = [Clip(item.name, partial(readers[f.part], item), item.files) for f, item in found]
    verdicts = read_all(clips, settings.num_workers, settings.timeout)
    for index, bad in track(verdicts, title, len(clips)):
        if bad is not None:
            finding, item = found[index]
            finding.usable.remove(item)
            finding.bad.append(bad)
    return findings


def read_all(
    clips: Sequence[Clip], processes: int, timeout: float
) -> Iterator[tuple[int, BadSample | None]]:
    """Read clips in processes; a process that dies or takes too long costs one clip.

    Args:
        clips: what to read.
        processes: how many; 0 reads in this process.
        timeout: s that a process may take for a clip; 0 is forever.

    Yields:
        The index of a clip, and what is bad about it, if anything.

    Raises:
        UserError: the system can no longer read a clip, or processes cannot be started or kept.
        Interrupted: a signal asked this process to stop.
        Exception: an error in the code that reads.
    """
    left = list(range(len(clips)))
    while left:
        verdicts = Loader(
            SampleDataset([clips[i] for i in left], methodcaller("read")),
            None,
            min(processes, len(left)),
            timeout,
            _raise_if_interrupted,
            collate_fn=_verdict,
            prefetch_factor=_AHEAD if processes else None,
        )
        count, fault = 0, None
        try:
            for (bad,) in verdicts:
                _raise_if_interrupted()
                yield left[count], bad
                count += 1
        except WorkerFault as error:
            fault = error
        if fault is not None:
            yield left[fault.index], BadSample(fault.path, fault.reason, fault.remedy)
            del left[fault.index]
        left = left[count:]


def _verdict(sample: Any) -> UserError | tuple[BadSample | None]:
    """What is bad about a sample, in a tuple, since the loader raises an error that is alone."""
    if isinstance(sample, BadSample):
        return (sample,)
    return sample if isinstance(sample, UserError) else (None,)


def _raise_if_interrupted() -> None:
    if asked_to_stop():
        raise Interrupted("Stopped while checking the data, as asked. Run the same command again.")
