"""``make doctor``: what imports, what is missing, and the exact remedy. Standard library only."""

import ctypes.util
import shutil
import subprocess
import sys
from pathlib import Path

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning": "lightning",
    "transformers": "transformers",
    "peft": "peft",
    "torchmetrics": "torchmetrics",
    "rich": "rich",
    "open3d": "open3d",
    "torchaudio": "torchaudio",
    "pycocoevalcap": "pycocoevalcap",
}
"""Module → package to install when it is missing."""

INSTALL = "make install  (or: pip install -c constraints.txt -e '.[dev]')"


def checks() -> list[tuple[str, bool, str]]:
    """Every check as (what, whether it is fine, version or remedy)."""
    version = sys.version.split()[0]
    results = [
        (
            "Python 3.11 or newer",
            sys.version_info >= (3, 11),
            version if sys.version_info >= (3, 11) else f"is {version}; install python3.11",
        ),
        _library("libusb-1.0", "open3d needs it", "apt-get install libusb-1.0-0"),
    ]
    results += [_import(module, package) for module, package in REQUIRED.items()]
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    results.append(
        ("1 GB of free disk", free > 1, f"{free:.0f} GB free" + ("" if free > 1 else "; free some"))
    )
    return results


def _library(name: str, why: str, remedy: str) -> tuple[str, bool, str]:
    found = ctypes.util.find_library(name.removeprefix("lib"))
    return f"system library {name}", found is not None, found or f"missing, {why}: {remedy}"


def _import(module: str, package: str) -> tuple[str, bool, str]:
    # In a process of its own: a broken binary can end the interpreter that imports it.
    code = f"import {module}; print(getattr({module}, '__version__', 'installed'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return f"import {module}", True, run.stdout.strip().splitlines()[-1]
    reason = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
    remedy = INSTALL if "No module named" in reason else f"reinstall {package}: {INSTALL}"
    return f"import {module}", False, f"{reason[:160]}\n      remedy: {remedy}"


def main() -> None:
    """Print all checks; exit code 1 when one fails."""
    results = checks()
    for what, fine, detail in results:
        print(f"{'ok     ' if fine else 'MISSING'} {what}: {detail}")
    failed = sum(not fine for _, fine, _ in results)
    print("Everything is in place." if not failed else f"{failed} of {len(results)} checks failed.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
