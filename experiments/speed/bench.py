"""What the benchmarks share: options, timing, peak memory, random models, tables."""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)


def parse_options(description: str | None, **defaults: int) -> argparse.Namespace:
    """Parse integer options with these defaults, and ``--device``."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def random_model(
    device: str, vision: dict[str, Any], text: dict[str, Any]
) -> LlavaOnevisionForConditionalGeneration:
    """Build a LLaVA-OneVision with random weights: bfloat16 on a GPU, float32 on a CPU."""
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision, vision_use_head=False),
        text_config=Qwen2Config(**text, num_key_value_heads=2),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    return LlavaOnevisionForConditionalGeneration(config).to(device, dtype_on(device))


def dtype_on(device: str) -> torch.dtype:
    """Return the dtype of models on a device."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def timed(runs: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Return the median seconds of each run; runs alternate, so that drift affects all alike."""
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


def peak_memory(run: Callable[[], object], device: str) -> float:
    """Return the peak of bytes in tensors during ``run``, beyond those before it."""
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    return allocated_peak(profile)


def allocated_peak(profile: torch.profiler.profile) -> float:
    """Return the peak of bytes that a profile with ``profile_memory`` saw allocated."""
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return float(peak)


def new_table(title: str, *columns: str) -> Table:
    """Return a table whose first column has names, and the others numbers."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
