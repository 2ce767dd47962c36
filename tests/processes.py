"""Processes for tests: forks of a server that has imported everything and computed nothing.

They run a module-level function with arguments that can be pickled.
"""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from datamodules.processes import PRELOAD, start_server

APART = get_context("forkserver")
APART.set_forkserver_preload(
    [
        *PRELOAD,
        "callbacks",
        "hypothesis",
        "peft",
        "pytest",
        "safetensors.torch",
        "transformers.models.llava_onevision.modeling_llava_onevision",
        "transformers.models.qwen2.modeling_qwen2",
        "transformers.models.siglip.modeling_siglip",
        "vlynx_pl.commands.lightning_cli",
        "vlynx_pl.tuning",
    ]
)
PATIENCE_S = 1800  # against hanging forever; no test depends on it


def begin(function: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Start a process that receives all signals."""
    start_server()
    process = APART.Process(target=_unblocked, args=(function, arguments))
    process.start()
    return process


def ended(*processes: ForkServerProcess) -> list[int | None]:
    """Wait for processes and return their exit codes."""
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def together(function: Callable[..., object], ranks: int, *arguments: Any) -> list[int | None]:
    """Call ``function(rank, *arguments)`` in one process per rank; return the exit codes."""
    return ended(*[begin(function, rank, *arguments) for rank in range(ranks)])


def wait_until(
    holds: Callable[[], object],
    otherwise: Callable[[], str] = lambda: "timed out",
    pause_s: float = 0.05,
) -> None:
    """Wait until ``holds()``; raise TimeoutError with ``otherwise()`` if it never does."""
    for _ in range(int(PATIENCE_S / pause_s)):  # a suspended machine does not count
        if holds():
            return
        time.sleep(pause_s)
    raise TimeoutError(otherwise())


def meet(rank: int, ranks: int, file: str | Path) -> None:
    """Join a process group through a new file, and set the variables that Lightning expects."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=ranks
    )
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def _unblocked(function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the server's mask is for readers
    torch.set_num_threads(1)  # as in the tests' own process; another number rounds otherwise
    function(*arguments)
