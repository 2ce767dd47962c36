"""Run what needs a GPU, and write its output to one Markdown file that names the hardware.

These are the tests for GPUs, the rehearsal at the size of LLaVA-OneVision-0.5B, and the speed of
alignment and tuning. On a CPU there are no tests, and the speed is that of two layers.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from experiments.speed import alignment_step, prefix_sharing, rehearsal


class Step(NamedTuple):
    """Something that is run: what it says about itself, and its command."""

    about: str
    command: list[str]


def steps(device: str, backbone: str) -> dict[str, Step]:
    """Return title → step of everything that is run."""
    small = ["--layers", "2", "--repeats", "1"] if device == "cpu" else []
    found = {}
    if device == "cuda":
        tests = ["pytest", "-q", "-rs", "-m", "gpu", "tests/vlynx_pl/test_gpu.py"]
        found["Tests"] = Step("Tests of the method on a GPU.", tests)
    for title, module, options in (
        ("Rehearsal", rehearsal, ["--backbone", backbone]),
        ("Speed of alignment", alignment_step, small),
        ("Speed of tuning and answering", prefix_sharing, small),
    ):
        command = [module.__name__, "--device", device, *options]
        found[title] = Step((module.__doc__ or "").strip(), command)
    return found


def hardware(device: str) -> str:
    """Name the device, and the versions that its figures depend on."""
    if device == "cuda":
        names = [torch.cuda.get_device_name(), f"CUDA {torch.version.cuda}"]
    else:
        names = [str(torch.cpu.get_capabilities().get("cpu_name", platform.machine()))]
        names.append(f"{os.cpu_count()} cores")
    return ", ".join([*names, f"torch {torch.__version__}"])


def report(out: Path, device: str, everything: Mapping[str, Step]) -> bool:
    """Run the steps and write a file, also after each step; return whether all succeeded."""
    parts, succeeded = [f"# GPU check: {hardware(device)}"], True
    wide = os.environ | {"COLUMNS": "120"}  # for tables
    for title, step in everything.items():
        Console(stderr=True).print(f"[bold]{title}[/]")
        began = time.perf_counter()
        command = [sys.executable, "-m", *step.command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=wide)
        end = f"{time.perf_counter() - began:.0f} s"
        output = done.stdout
        if done.returncode:
            succeeded = False
            end += f", failed with exit code {done.returncode}"
            output += done.stderr
        shown = output.strip("\n")
        parts.append(f"## {title} ({end})\n\n{step.about}\n\n```text\n{shown}\n```")
        out.write_text("\n\n".join(parts) + "\n")
    return succeeded


def main() -> None:
    """Write the file; exit with 1 if a command failed."""
    parser = argparse.ArgumentParser("make gpu-check", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--backbone", default="llava_ov_0.5b")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; give --device cpu to try the check itself")
    everything = steps(options.device, options.backbone)
    succeeded = report(options.out, options.device, everything)
    print(f"Written to {options.out}")
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
