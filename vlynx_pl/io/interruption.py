"""Signals that ask a run to stop, and the exit codes that tell a batch script why it ended.

A handler only records the signal. Code that can stop without losing work checks the record, saves,
and raises :class:`Interrupted`.
"""

import signal
from types import FrameType
from typing import Final

from vlynx_pl.io.progress import first_rank

PREEMPTED: Final = 75
"""Exit code of a run that was asked to stop and can be resumed (sysexits' EX_TEMPFAIL). 0 is a
finished run, any other code a failed one."""

INTERRUPTED: Final = 130
"""Exit code of a run stopped by Ctrl-C, as in shells."""

NOTED: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that ask a run to stop."""

_asked: list[signal.Signals] = []


class Interrupted(SystemExit):
    """Exits with the code that belongs to the last signal.

    Only the first of several processes does so. The others exit with 0, as launchers kill all
    processes, even while they save, when one exits with another code.

    Args:
        message: what was saved and how to resume.
    """

    def __init__(self, message: str) -> None:
        code = INTERRUPTED if _asked[-1:] == [signal.SIGINT] else PREEMPTED
        super().__init__(code if first_rank() else 0)
        self.message = message

    def __str__(self) -> str:
        return self.message


def note_signals() -> None:
    """Start to record the signals in :data:`NOTED`; a second Ctrl-C exits at once."""
    for wanted in NOTED:
        signal.signal(wanted, _record)


def asked_to_stop() -> bool:
    """Whether a signal was recorded."""
    return bool(_asked)


def forget_signals() -> None:
    """Clear the record; for several runs in one process."""
    _asked.clear()


def _record(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _asked:
        raise Interrupted(
            "Ended at once. Run the same command again to resume from what was saved."
        )
    _asked.append(signal.Signals(number))
