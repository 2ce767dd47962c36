"""Progress of long loops: a bar on a terminal, and readable lines in the log of a batch job.

In a log, a loop prints a line at its beginning, every half minute, and at its end if that took
longer. Lines go to stderr; stdout is for results.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from typing import Final, TypeVar

import rich
import rich.progress
from rich.markup import escape

EVERY_S: Final = 30.0
"""Seconds between two lines."""

_FEW: Final = 3  # items before an estimate
_RANKS: Final = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
Item = TypeVar("Item")


def track(
    items: Iterable[Item], what: str, total: int | None = None, disable: bool = False
) -> Iterator[Item]:
    """Yield the items of a loop and show its progress, on the first process rank only.

    Args:
        items: any iterable.
        what: title, such as ``Guidance from RGB videos``.
        total: number of items; None is ``len(items)`` if it has one.
        disable: show nothing.
    """
    if disable or not first_rank():
        return iter(items)
    if total is None and (known := length_hint(items, -1)) >= 0:
        total = known
    if on_terminal():
        return iter(rich.progress.track(items, escape(what), total, transient=True))
    return _logged(items, what, total)


def on_terminal() -> bool:
    """Whether stdout is a terminal, where a bar can be drawn."""
    return rich.get_console().is_terminal


def first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first process of a run, by its launcher's environment variables."""
    return all(environment.get(rank, "0") in {"0", ""} for rank in _RANKS)


def say(line: str) -> None:
    """Write a line to stderr, and flush it."""
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Format a time: ``41 s``, ``12 min 5 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Lines:
    """Progress of a loop as lines of a log.

    Args:
        what: title, with a colon, such as ``Checking:``.
        total: number of items; None if unknown.
        done: number of items that were done before.
    """

    def __init__(self, what: str, total: int | None, done: int = 0) -> None:
        self._what, self._total = what, total
        self._printed = done
        self._began = self._printed_at = time.monotonic()
        self._first: tuple[float, int] | None = None

    def begin(self) -> None:
        """Print the first line."""
        say(self._count(self._printed))

    def at(self, count: int, more: str = "", last: bool = False) -> None:
        """Print ``count`` and ``more`` if the last line is half a minute old.

        After the last item, print them if the loop has taken half a minute.
        """
        now = time.monotonic()
        # The first item is not part of the pace, as it waits for workers to start.
        self._first = self._first or (now, count)
        since = self._began if last or count == self._total else self._printed_at
        if count == self._printed or now - since < EVERY_S:
            return
        parts = [self._count(count), duration(now - self._began)]
        began, first = self._first
        if self._total is not None and count - first >= _FEW and count < self._total:
            pace = (now - began) / (count - first)
            parts.append(f"{duration(pace * (self._total - count))} left")
        say(", ".join(parts) + (more and f", {more}"))
        self._printed_at, self._printed = now, count

    def _count(self, count: int) -> str:
        return f"{self._what} {count}" + ("" if self._total is None else f" of {self._total}")


def _logged(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    lines = Lines(f"{what}:", total)
    lines.begin()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        lines.at(count)
    lines.at(count, last=True)
