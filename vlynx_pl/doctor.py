"""``make doctor``: what imports, what is missing, and the exact remedy. Standard library only."""

import ctypes.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "lightning",
    "transformers",
    "peft",
    "torchmetrics",
    "open3d",
    "pycocoevalcap",
    "rich",
)
"""What must import; every name is that of its module and of its package."""


class Check(NamedTuple):
    """One thing that must be in place."""

    what: str
    fine: bool
    detail: str  # version, or what is wrong
    remedy: str  # a command


def checks() -> list[Check]:
    """Everything that the commands of the Makefile need."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    python = "apt-get install python3.11 python3.11-venv"
    usb = ctypes.util.find_library("usb-1.0")
    return [
        Check("Python 3.11 or newer", sys.version_info >= (3, 11), sys.version.split()[0], python),
        Check(
            "libusb-1.0 (open3d needs it)",
            usb is not None,
            usb or "not found",
            "apt-get install libusb-1.0-0",
        ),
        *(_import(package) for package in PACKAGES),
        Check("1 GB of free disk", free > 1, f"{free:.0f} GB", "free some space"),
    ]


def _import(package: str) -> Check:
    # In a process of its own: a broken binary can end the interpreter that imports it.
    code = f"import {package}; print(getattr({package}, '__version__', 'installed'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    fine = run.returncode == 0
    said = (run.stdout if fine else run.stderr).strip().splitlines()
    detail = said[-1][:160] if said else f"exit code {run.returncode}"
    return Check(f"import {package}", fine, detail, "rm -rf .venv && make install")


def main() -> None:
    """Print all checks, then each remedy once; exit code 1 when one fails."""
    results = checks()
    for check in results:
        print(f"{'ok     ' if check.fine else 'MISSING'} {check.what}: {check.detail}")
    remedies = dict.fromkeys(check.remedy for check in results if not check.fine)
    print("Everything is in place." if not remedies else "To mend it, run:")
    for remedy in remedies:
        print(f"  {remedy}")
    sys.exit(bool(remedies))


if __name__ == "__main__":
    main()
