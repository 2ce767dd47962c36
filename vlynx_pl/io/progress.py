"""Progress of long loops: a bar on a terminal, and readable lines in the log of a batch job.

In a log, a loop prints a line at its beginning, every half minute, and at its end. Lines go to
stderr; stdout is for results.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from operator import length_hint
from threading import RLock
from typing import Any, Final, TypeVar

import rich
import rich.progress
from rich.markup import escape
from tqdm import tqdm
from typing_extensions import override

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
    return iter(LogBar(items, what, total))


def on_terminal() -> bool:
    """Whether stdout is a terminal, where a bar can be drawn."""
    return rich.get_console().is_terminal


def first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first process of a run, by its launcher's environment variables."""
    return all(environment.get(rank, "0") in {"0", ""} for rank in _RANKS)


def say(line: str) -> None:
    """Write a line to stderr, and flush it."""
    print(line, file=sys.stderr, flush=True)


class LogBar(tqdm):  # type: ignore[misc]
    """tqdm's bar as lines on stderr: at the beginning, every half minute, and at the end.

    The time left is shown once three items are done, as the first waits for workers to start.
    """

    monitor_interval = 0  # no thread

    def __init__(
        self,
        items: Iterable[Any] | None = None,
        what: str = "",
        total: float | None = None,
        **options: Any,
    ) -> None:
        form = "{desc}: {n_fmt} of {total_fmt}, {elapsed}{postfix}"
        lines = {"file": _Lines(), "mininterval": EVERY_S, "miniters": 1, "bar_format": form}
        super().__init__(items, what, total, **lines, **options)

    @property
    @override
    def format_dict(self) -> dict[str, Any]:
        shown: dict[str, Any] = super().format_dict
        if self.total and _FEW <= self.n - self.initial < self.total - self.initial:
            shown["bar_format"] = shown["bar_format"].replace("{p", ", {remaining} left{p")
        return shown


LogBar.set_lock(RLock())  # tqdm's own is for several processes, and starts one


class _Lines(StringIO):
    """Writes each text that tqdm would write over the last one as a new line."""

    last = ""

    @override
    def write(self, text: str) -> int:
        if (line := text.strip()) and line != self.last:
            say(line)
            self.last = line
        return len(text)
