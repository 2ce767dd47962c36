"""Timing runs against each other in one process."""

import statistics
import time
from collections.abc import Callable

import torch
from rich.progress import track


def timed(runs: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each run, the runs taking turns so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in track(range(repeats + 1), "Timing", transient=True):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
