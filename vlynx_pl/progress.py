"""How far a long loop is: a bar on a terminal, and in a batch job's log lines that can be read.

A bar draws over itself, which no file can. There, a loop says that it begins, how far it is every
half minute, and how long it took if that was longer. Lines go to stderr; stdout is for results.
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


def so_far(what: str, count: int, total: int | None, seconds: float) -> str:
    """How far a loop is, as a line: ``Checking: 120 of 500, 41 s, 2 min 10 s left``."""
    if total is None:
        return f"{what}: {count}, {duration(seconds)}"
    left = f", {duration(seconds / count * (total - count))} left" if 0 < count < total else ""
    return f"{what}: {count} of {total}, {duration(seconds)}{left}"


def _told(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    say(f"{what}: 0" + ("" if total is None else f" of {total}"))
    began = told = time.monotonic()
    count = said = 0
    for item in items:
        yield item
        count += 1
        now = time.monotonic()
        if now - told >= EVERY_S and count != total:
            say(so_far(what, count, total, now - began))
            told, said = now, count
    if (took := time.monotonic() - began) >= EVERY_S and said != count:
        say(so_far(what, count, total, took))
