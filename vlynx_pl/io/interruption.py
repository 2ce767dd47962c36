"""Signals that ask a run to end, and the exit codes by which a batch script tells why it ended.

A handler only takes note. Whoever is at a place where nothing is lost looks at the note, saves, and
raises :class:`Interrupted`; an exit in the middle of a step could leave half of it behind.
"""

import signal
from types import FrameType
from typing import Final

from vlynx_pl.io.progress import first_rank

PREEMPTED: Final = 75
"""Exit code of a run that was asked to make room and goes on when it is started again: sysexits'
EX_TEMPFAIL. 0 is a finished run, anything else a failed one."""

INTERRUPTED: Final = 130
"""Exit code of a run that Ctrl-C stopped, as shells say it."""

NOTED: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that ask a run to end."""

_asked: list[signal.Signals] = []


class Interrupted(SystemExit):
    """Ends the process with the exit code that belongs to the signal that was noted last.

    Of several processes the first one alone does: when one of the others ends with anything but 0,
    launchers end all at once, amid their saving.

    Args:
        message: what was saved and how to go on.
    """

    def __init__(self, message: str) -> None:
        code = INTERRUPTED if _asked[-1:] == [signal.SIGINT] else PREEMPTED
        super().__init__(code if first_rank() else 0)
        self.message = message

    def __str__(self) -> str:
        """The message."""
        return self.message


def note_signals() -> None:
    """From now on take note of :data:`NOTED`; a second Ctrl-C ends at once."""
    for wanted in NOTED:
        signal.signal(wanted, _take_note)


def asked_to_stop() -> bool:
    """Whether a signal was noted."""
    return bool(_asked)


def forget_signals() -> None:
    """Nothing was asked; for tests and for whoever runs more than one fit in a process."""
    _asked.clear()


def _take_note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and signal.SIGINT in _asked:
        raise Interrupted("Ended at once. Run the same command again to go on from what was saved.")
    _asked.append(signal.Signals(number))
