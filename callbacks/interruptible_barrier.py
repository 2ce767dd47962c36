"""A barrier for all ranks that a signal can interrupt.

A rank that waits in a collective call does not notice signals, and a rank that was asked to stop
never reaches the barrier. So ranks poll for signals while they wait.
"""

import time
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

from vlynx_pl.distributed import world_size
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.interruption import Interrupted, asked_to_stop

_PATIENCE: Final = timedelta(days=1)  # one rank may take hours longer than another


class InterruptibleBarrier:
    """Ranks create it together, do their work, and then wait for each other."""

    def __init__(self) -> None:
        # A separate group, since the GPU's gives up after half an hour.
        several = world_size() > 1
        self._group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE) if several else None

    def wait(self, kept: str) -> None:
        """Return when all ranks have arrived.

        Args:
            kept: tells what is not lost if a process ends first, and how to go on.

        Raises:
            Interrupted: this process was asked to stop.
            UserError: another process has ended.
        """
        if self._group is None:
            return
        try:
            arrival = dist.all_reduce(torch.zeros(()), group=self._group, async_op=True)
            while not arrival.is_completed():
                if asked_to_stop():
                    raise Interrupted(f"Stopped while waiting for other ranks, as asked. {kept}")
                time.sleep(0.05)
            arrival.wait()
        except RuntimeError as error:
            raise UserError(
                f"another process of this run has ended; see what it said. {kept}"
            ) from error
