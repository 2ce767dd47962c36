"""Run what needs a GPU, and write its output to one Markdown file that names the hardware.

These are the tests for GPUs, the rehearsal at the size of LLaVA-OneVision-0.5B, and the speed of
alignment and tuning.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console


def steps(device: str, backbone: str) -> dict[str, list[str]]:
    """Return title → command of everything that is run."""
    commands = {
        "Rehearsal": ["experiments.speed.rehearsal", "--backbone", backbone],
        "Speed of alignment": ["experiments.speed.alignment_step"],
        "Speed of tuning and answering": ["experiments.speed.prefix_sharing"],
    }
    for command in commands.values():
        command += ["--device", device]
    tests = {"Tests": ["pytest", "-q", "-m", "gpu", "tests/vlynx_pl/test_gpu.py"]}
    every = (tests if device == "cuda" else {}) | commands
    return {title: [sys.executable, "-m", *command] for title, command in every.items()}


def hardware(device: str) -> str:
    """Name the device, and the versions that its figures depend on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    return f"{name or platform.machine()}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def report(device: str, commands: Mapping[str, list[str]]) -> tuple[str, bool]:
    """Run the commands; return the text, and whether all succeeded."""
    parts, succeeded = [f"# {hardware(device)}"], True
    for title, command in commands.items():
        Console(stderr=True).print(f"[bold]{title}[/]")
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - began
        succeeded &= done.returncode == 0
        end = f"exit code {done.returncode}, {seconds:.0f} s"
        parts.append(f"## {title}: {end}\n\n```text\n{done.stdout.strip()}\n```")
    return "\n\n".join(parts) + "\n", succeeded


def main() -> None:
    """Write the file; exit with 1 if a command failed."""
    parser = argparse.ArgumentParser("make gpu-check", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--backbone", default="llava_ov_0.5b")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; give --device cpu to try the check itself")
    text, succeeded = report(options.device, steps(options.device, options.backbone))
    options.out.write_text(text)
    print(f"Written to {options.out}")
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
