"""A small toy world of depth, and the command lines of short runs on it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

REPOSITORY: Final = Path(__file__).parents[2]
VLYNX: Final = str(Path(sys.executable).with_name("vlynx"))
_SCANQA: Final = ("tune/scanqa", "tune/toyworld/scanqa")
CONFIGS: Final = {"alignment": ("align/3d",), "tuning": _SCANQA, "answers": _SCANQA}
"""What can be run → its configurations in experiments/, beside that of the backbone."""
_SHOWN: Final = 2000  # characters of what went wrong


def environment() -> dict[str, str]:
    """Of a run; its callbacks may come from this repository."""
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def make_world(folder: Path, scenes: int) -> None:
    """Make a world.

    Raises:
        RuntimeError: it could not be made.
    """
    making = [sys.executable, "-m", "experiments.toyworld", "3d"]
    making += [f"--out={folder}", f"--scenes={scenes}"]
    made = subprocess.run(making, env=environment(), capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"no toy world: {made.stderr[-_SHOWN:]}")


def command(
    kind: str,
    run: Path,
    world: Path,
    callbacks: Sequence[Mapping[str, Any]],
    aligned: Path | None,
    **options: Any,
) -> list[str]:
    """The command line of a run, the same every time.

    Args:
        kind: one of ``CONFIGS``.
        run: its folder; a file beside it holds the callbacks.
        world: that :func:`make_world` made.
        callbacks: beside those that the command line adds.
        aligned: an alignment, whose adapter is used where ``kind`` is not one itself.
        options: further ones, and others than the configuration's.
    """
    own = run.with_suffix(".yaml")
    own.write_text(json.dumps({"trainer": {"callbacks": callbacks}}))
    options = {"run": run, "data.root": world} | options
    if aligned is not None:
        adapter = {"3d": str(aligned / "adapters" / "vision-3d")}
        options["model.streams.modalities"] = json.dumps(adapter)
        options["data.benchmark.init_args.annotations"] = world
    configs = ("backbones/miniature", *CONFIGS[kind])
    return [
        *(VLYNX, "test" if kind == "answers" else "fit"),
        *(f"--config={REPOSITORY / 'experiments' / name}.yaml" for name in configs),
        f"--config={own}",
        *(f"--{name}={value}" for name, value in options.items()),
    ]


def clean_up_on_sigterm() -> None:
    """Leave all ``with`` and ``finally`` blocks then, which end what was started."""
    signal.signal(signal.SIGTERM, _leave)


def _leave(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)
