"""Provenance of results: code, libraries, machine, seed and command.

Whenever a run starts or resumes, ``<run>/provenance.json`` gets one more entry, and files with
scores quote the last one. Entries do not name the user or the host, only SLURM's job number.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from torch.backends.cpu import get_cpu_capability

from vlynx_pl.distributed import world_size
from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.files import atomic_file
from vlynx_pl.runs.doctor import PACKAGES

_GIT_S: Final = 20.0  # timeout, for slow disks


def provenance() -> dict[str, Any]:
    """Describe what this process runs, where and how, as plain data.

    A value is None if it is unknown: the version of a package that is not installed, or the commit
    without a git checkout.
    """
    seed = os.environ.get("PL_GLOBAL_SEED")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": torch.initial_seed() if seed is None else int(seed),
        "git": commit(Path(__file__).parent),
        "versions": {name: _version(name) for name in ("vlynx", *PACKAGES)},
        "python": platform.python_version(),
        "platform": platform.platform(),
        # Vector instructions and threads determine the order of sums.
        "cpu": {"vectors": get_cpu_capability(), "threads": torch.get_num_threads()},
        "gpu": {"names": gpus, "cuda": torch.version.cuda},
        "processes": world_size(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def add_session(run: Path, session: Mapping[str, Any]) -> None:
    """Append a session to ``<run>/provenance.json``; raise UserError like :func:`sessions`."""
    with atomic_file(run / "provenance.json") as unfinished:
        unfinished.write_text(json.dumps([*sessions(run), redact_paths(session)], indent=1))


def last_session(run: Path) -> dict[str, Any] | None:
    """Return the last session, or None; raise UserError like :func:`sessions`."""
    return next(reversed(sessions(run)), None)


def sessions(run: Path) -> list[dict[str, Any]]:
    """Read ``<run>/provenance.json``, the first session first.

    Raises:
        UserError: the file exists, but is not a list of sessions.
    """
    path = run / "provenance.json"
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, list) or not all(isinstance(session, dict) for session in found):
            raise TypeError("it is not a list of sessions")
    except PARSE_ERRORS as error:
        raise UserError(
            f"{path} cannot be read ({error}); move it away to start a new one"
        ) from error
    return found


def commit(folder: Path) -> dict[str, Any] | None:
    """Find the git commit of the checkout that a Python package belongs to.

    Returns:
        ``commit``, and ``dirty``: whether tracked or untracked files differ from it. None without
        git or a checkout, or if the package is installed inside another project's checkout.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    return None if head is None or changes is None else {"commit": head, "dirty": changes != ""}


def redact_paths(data: Any) -> Any:
    """Replace the home folder by ``~``, and the user's name in other paths by ``$USER``."""
    if isinstance(data, str):
        home = os.environ.get("HOME", "").rstrip("/")
        if not home:
            return data
        data = re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", data)
        return re.sub(rf"(?<=/){re.escape(Path(home).name)}(?![\w.-])", "$USER", data)
    if isinstance(data, Mapping):
        return {name: redact_paths(value) for name, value in data.items()}
    return [redact_paths(value) for value in data] if isinstance(data, list | tuple) else data


def _git(folder: Path, *arguments: str) -> str | None:
    # Without locks, as the user may be using git in the checkout.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        said = subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=_GIT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.decode(errors="replace").strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
