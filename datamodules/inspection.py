"""Looking at every recording before it is needed: what can be used, and what is bad and why."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

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


def inspect(
    jobs: Iterable[tuple[Part, Recording]],
    candidates: Callable[[Part, Recording], list[Any]],
    read: Callable[[Part, Any], object] | None,
    stop: bool,
    title: str,
) -> list[Finding]:
    """Look at recordings in threads, with a progress bar.

    Args:
        jobs: what there should be.
        candidates: clips or episodes of a recording.
        read: decodes one of them; None leaves them unread.
        stop: raise the first BadSample.
        title: of the progress bar.

    Returns:
        What became of each, in order.
    """

    def look(part: Part, recording: Recording) -> Finding:
        finding = Finding(part, recording.name, recording.episode)
        try:
            found = candidates(part, recording)
        except BadSample as bad:
            finding.bad.append(bad)
            return finding
        for candidate in found:
            try:
                if read is not None:
                    read(part, candidate)
                finding.usable.append(candidate)
            except BadSample as bad:
                finding.bad.append(bad)
        return finding

    findings = []
    pool = ThreadPoolExecutor(_THREADS)
    try:
        waiting = [pool.submit(look, *job) for job in jobs]
        for outcome in track(waiting, title):
            finding = outcome.result()
            if asked_to_stop():
                raise Interrupted(
                    "Stopped while checking the data, as asked. Run the same command again."
                )
            if stop and finding.bad:
                raise finding.bad[0]
            findings.append(finding)
    finally:  # what is queued is not worth waiting for
        pool.shutdown(cancel_futures=True)
    return findings
