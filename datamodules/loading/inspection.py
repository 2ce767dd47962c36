"""Looking at every recording before it is needed: what can be used, and what is bad and why."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from datamodules.loading.loader import Item, Loader, SampleDataset
from datamodules.loading.recordings import Expected, Part
from datamodules.loading.serving import Serving
from datamodules.loading.settings import LoadingSettings
from datamodules.loading.worker_errors import Reading, WorkerFault, explained
from datamodules.samples import BadSample, Episode
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted, asked_to_stop
from vlynx_pl.io.progress import track

# Most of the time is spent waiting for the disk, and in libraries that let other threads run.
_THREADS: Final = 2 * (os.cpu_count() or 1)
_AHEAD: Final = 8  # samples that a process may be ahead of the slowest


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
            recording; without, threads of this process read.
        read: decode everything and list all that is bad; otherwise leave it unread and raise the
            first BadSample.
        learnt: whether questions are learnt, or only asked.

    Returns:
        What was found of each, in order.
    """
    title, apart = f"Checking {Path(settings.root).name}", settings.num_workers > 0

    def look(part: Part, recording: Expected) -> Finding:
        finding = Finding(part, recording.name, recording.episode)
        try:
            finding.usable, finding.bad = serving.items(part, recording, learnt)
        except BadSample as bad:
            finding.bad.append(bad)
        if read and not apart:
            reader = serving.reader(part)
            _sort(finding, [_verdict(reader, item) for item in finding.usable])
        return finding

    findings: list[Finding] = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        pending = [pool.submit(look, *job) for job in jobs]
        outcomes = (job.result() for job in pending)
        for finding in track(outcomes, title, len(pending), disable=read and apart):
            _raise_if_interrupted()
            if finding.bad and not read:
                raise finding.bad[0]
            findings.append(finding)
    finally:
        pool.shutdown(cancel_futures=True)
    if read and apart:
        for part in dict.fromkeys(finding.part for finding in findings):
            of_part = [finding for finding in findings if finding.part == part]
            items = [item for finding in of_part for item in finding.usable]
            read_items = read_all(
                items,
                serving.reader(part),
                settings.num_workers,
                settings.timeout,
                _raise_if_interrupted,
            )
            verdicts = dict(track(read_items, f"{title}, {part}", len(items)))
            in_order = iter([verdicts[index] for index in range(len(items))])
            for finding in of_part:
                _sort(finding, [next(in_order) for _ in finding.usable])
    return findings


def read_all(
    items: Sequence[Item],
    reader: Callable[[Any], Any],
    processes: int,
    timeout: float,
    while_waiting: Callable[[], None],
) -> Iterator[tuple[int, BadSample | None]]:
    """Read items in processes; a process that dies or takes too long costs one item.

    Args:
        items: what to read.
        reader: reads one.
        processes: how many.
        timeout: s for an item; 0 is forever.
        while_waiting: called at least once a second; what it raises ends all processes.

    Yields:
        The index of an item, and what is bad about it, if anything.

    Raises:
        UserError: the system can no longer read an item, or processes cannot be started or kept.
        Exception: an error in the code that reads.
    """
    left = list(range(len(items)))
    while left:
        verdicts = Loader(
            SampleDataset([items[i] for i in left], reader),
            None,
            while_waiting,
            num_workers=processes,
            collate_fn=_verdict_of,
            timeout=timeout,
            prefetch_factor=_AHEAD,
        )
        count, fault = 0, None
        try:
            for (bad,) in verdicts:
                yield left[count], bad
                count += 1
        except WorkerFault as error:
            fault = error
        if fault is not None:
            yield left[fault.index], BadSample(fault.path, fault.reason, fault.remedy)
            del left[fault.index]
        left = left[count:]


def _verdict_of(sample: Any) -> UserError | tuple[BadSample | None]:
    """What is bad about a sample, in a tuple, since the loader raises an error that is alone."""
    if isinstance(sample, BadSample):
        return (sample,)
    return sample if isinstance(sample, UserError) else (None,)


def _verdict(reader: Callable[[Any], Any], item: Item) -> BadSample | None:
    try:
        with explained(Reading(item.name, item.files)):
            reader(item)
    except BadSample as bad:
        return bad
    return None


def _sort(finding: Finding, verdicts: Sequence[BadSample | None]) -> None:
    """Move what is bad from the usable items."""
    judged = list(zip(finding.usable, verdicts, strict=True))
    finding.usable = [item for item, bad in judged if bad is None]
    finding.bad += [bad for _, bad in judged if bad is not None]


def _raise_if_interrupted() -> None:
    if asked_to_stop():
        raise Interrupted("Stopped while checking the data, as asked. Run the same command again.")
