"""How far a long loop is: a bar on a terminal, and in a batch job's log lines that can be read.

A bar draws over itself, which no file can: Lightning's and tqdm's fill it with carriage returns.
There, a loop says that it begins, how far it is every half minute, and how long it took if that was
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

_FEW: Final = 3  # items that an estimate needs
_RANKS: Final = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
Item = TypeVar("Item")


def track(
    items: Iterable[Item], what: str, total: int | None = None, disable: bool = False
) -> Iterator[Item]:
    """Hand on the items of a loop and show how far it is; ranks but the first are silent.

    Args:
        items: any iterable.
        what: what the loop does, such as ``Guidance from RGB videos``.
        total: how many items there are; None asks ``items``, which may not know.
        disable: show nothing.
    """
    if disable or not first_rank():
        return iter(items)
    if total is None and (known := length_hint(items, -1)) >= 0:
        total = known
    if on_terminal():
        return iter(rich.progress.track(items, escape(what), total, transient=True))
    return _told(items, what, total)


def on_terminal() -> bool:
    """Whether stdout is a terminal, where a bar can be drawn."""
    return rich.get_console().is_terminal


def first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the one process of a run that speaks, by what its launcher says of it."""
    return all(environment.get(rank, "0") in {"0", ""} for rank in _RANKS)


def say(line: str) -> None:
    """Write a line to stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time as people say it: ``41 s``, ``12 min 5 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Lines:
    """How far a loop is, as lines of a log.

    Args:
        what: what the loop does, with a colon, such as ``Checking:``.
        total: how many items there are; None where nobody knows.
        done: how many of them were done before.
    """

    def __init__(self, what: str, total: int | None, done: int = 0) -> None:
        self._what, self._total = what, total
        self._said = done
        self._began = self._told = time.monotonic()
        self._first: tuple[float, int] | None = None

    def begin(self) -> None:
        """Say that nothing is done yet."""
        say(self._count(self._said))

    def at(self, count: int, more: str = "", last: bool = False) -> None:
        """Say that ``count`` items are done, and ``more``, if nothing was said for half a minute.

        After the last item that is half a minute since the loop began.
        """
        now = time.monotonic()
        # The pace is of the items after the first, which waits for all that starts with it.
        self._first = self._first or (now, count)
        since = self._began if last or count == self._total else self._told
        if count == self._said or now - since < EVERY_S:
            return
        parts = [self._count(count), duration(now - self._began)]
        began, first = self._first
        if self._total is not None and count - first >= _FEW and count < self._total:
            pace = (now - began) / (count - first)
            parts.append(f"{duration(pace * (self._total - count))} left")
        say(", ".join(parts) + (more and f", {more}"))
        self._told, self._said = now, count

    def _count(self, count: int) -> str:
        return f"{self._what} {count}" + ("" if self._total is None else f" of {self._total}")


def _told(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    lines = Lines(f"{what}:", total)
    lines.begin()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        lines.at(count)
    lines.at(count, last=True)
