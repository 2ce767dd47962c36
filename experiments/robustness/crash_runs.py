"""Runs of a small toy world that are killed as planned, and what they must have in common."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from experiments.robustness.crash_phases import PHASES, Place, read_place, write_place
from vlynx_pl.run_folder import is_finished

_EXPERIMENTS: Final = Path(__file__).parents[1]
_VLYNX: Final = str(Path(sys.executable).with_name("vlynx"))
_CONFIGS: Final = {"alignment": ["align/3d"], "tuning": ["tune/scanqa", "tune/toyworld/scanqa"]}
STAGES: Final = tuple(_CONFIGS)
_OPTIONS: Final[Mapping[str, Any]] = {
    "checkpoint.minutes": 0.005,
    "data.batch_size": 4,
    "model.dropout": 0.1,
    "trainer.max_epochs": 3,
    "trainer.log_every_n_steps": 7,  # not the last step, where Lightning saves what is logged
}
_WORKERS: Final = {"alignment": 2, "tuning": 0}
_SAVE_EVERY: Final = 3  # reference videos
_LIMIT_S: Final = 240.0  # of a process; it takes 10 to 30 s
_SHOWN: Final = 2000  # characters of what went wrong
_OWN: Final = {"config.yaml", "provenance.json", "checkpoints", "tensorboard"}
"""What names folders and processes, or when it was written; not compared."""


class Target(NamedTuple):
    """When to kill a process.

    Args:
        phase: one of ``crash_phases.PHASES``.
        entry: when it is begun for so manieth time.
        moment: how far into it, as a share of the time that it usually takes.
    """

    phase: str
    entry: int
    moment: float


class Victim(NamedTuple):
    """A run, and the kills that it has to endure, one a process."""

    stage: str
    targets: tuple[Target, ...]


class Session(NamedTuple):
    """A process of a run.

    Args:
        stage: one of ``STAGES``.
        run: folder of the run.
        place: where it was at its end.
        killed: whether it was killed as planned.
        failure: what else went wrong, or nothing.
        seconds: phase → how long it took altogether.
    """

    stage: str
    run: Path
    place: Place
    killed: bool
    failure: str
    seconds: Mapping[str, float]


class World:
    """A small toy world, and the runs on it.

    Args:
        folder: empty; everything is written into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: dict[str, Session] = {}
        """Stage → a run that nobody kills."""

    def make(self) -> None:
        """Make the world.

        Raises:
            RuntimeError: it could not be made.
        """
        command = [_VLYNX, "toyworld", "3d", f"--out={self.folder / 'world'}", "--scenes=24"]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"no toy world: {made.stderr[-_SHOWN:]}")

    def run_whole(self, stage: str) -> None:
        """Run a stage as the others are to end; alignment comes before tuning.

        Raises:
            RuntimeError: it does not end well.
        """
        (ended,) = (each for each in self.live(Victim(stage, ()), "whole") if each)
        if ended.failure:
            raise RuntimeError(f"{stage} fails without being killed: {ended.failure}")
        self.whole[stage] = ended

    def live(self, victim: Victim, name: str) -> Iterator[Session | None]:
        """Kill a run as planned and let it end; yields nothing while a process works."""
        run = self.folder / f"{victim.stage}-{name}"
        command = self._command(victim.stage, run)
        for target in (*victim.targets, None):
            patience = self._patience(victim.stage, target)
            ended = yield from session(victim.stage, run, command, target, patience)
            yield ended
            if not ended.killed or is_finished(run):
                return

    def _patience(self, stage: str, target: Target | None) -> float:
        """Seconds from the beginning of a phase to the kill."""
        if target is None:
            return 0.0
        whole, phase = self.whole[stage], target.phase
        return target.moment * whole.seconds[phase] / max(whole.place.times(phase), 1)

    def _command(self, stage: str, run: Path) -> list[str]:
        """The command line of a run, the same every time."""
        configs = [_EXPERIMENTS / f"{name}.yaml" for name in _CONFIGS[stage]]
        callbacks = yaml.safe_load(configs[0].read_text())["trainer"]["callbacks"]
        for callback in callbacks:
            if callback["class_path"] == "callbacks.ReferenceGuidance":
                callback["init_args"]["save_every"] = _SAVE_EVERY
        noting = {
            "class_path": "experiments.robustness.crash_phases.Phases",
            "init_args": {"file": str(run.with_suffix(".place"))},
        }
        own = run.with_suffix(".yaml")
        own.write_text(json.dumps({"trainer": {"callbacks": [noting, *callbacks]}}))
        world = self.folder / "world"
        options = {"run": run, "data.root": world, "data.num_workers": _WORKERS[stage], **_OPTIONS}
        if stage == "tuning":
            aligned = self.whole["alignment"].run / "adapters" / "vision-3d"
            options["model.modalities"] = json.dumps({"3d": str(aligned)})
            options["data.benchmark.init_args.annotations"] = world
        configs = [_EXPERIMENTS / "backbones" / "miniature.yaml", *configs, own]
        return [
            *(_VLYNX, "fit"),
            *(f"--config={path}" for path in configs),
            *(f"--{name}={value}" for name, value in options.items()),
        ]


def session(
    stage: str, run: Path, command: Sequence[str], target: Target | None, patience: float
) -> Generator[None, None, Session]:
    """Start a process and kill it when its time has come; yields until it has ended."""
    place, log = run.with_suffix(".place"), run.with_suffix(".log")
    write_place(place, Place())
    code_of = {"PYTHONPATH": str(_EXPERIMENTS.parent), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=_EXPERIMENTS.parent,
            env=os.environ | code_of,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, with the loader's workers
        )
    seconds = dict.fromkeys(PHASES, 0.0)
    now, left, due = time.monotonic(), patience, False
    limit = now + _LIMIT_S
    try:
        while process.poll() is None and now < limit and not due:
            yield
            here, before, now = read_place(place), now, time.monotonic()
            seconds[here.phase] += now - before
            if target and here.times(target.phase) >= target.entry:
                # A checkpoint is written where steps and validations begin; they come after.
                if target.phase == "checkpoint write" or here.phase != "checkpoint write":
                    left -= now - before
                due = left <= 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    killed = code == -signal.SIGKILL and due
    failure = ""
    if code and not killed:
        words = log.read_text(errors="replace")[-_SHOWN:]
        failure = f"exit code {code} after {sum(seconds.values()):.0f} s: ...{words}"
    return Session(stage, run, read_place(place), killed, failure, seconds)


def differences(run: Path, whole: Path) -> list[str]:
    """What two finished runs should have in common and have not; each begins with the file."""
    files, others = _files(run), _files(whole)
    wrong = [f"{name} is missing" for name in sorted(others - files)]
    wrong += [f"{name} should not be there" for name in sorted(files - others)]
    for name in sorted(files & others):
        one, other = _content(run / name), _content(whole / name)
        if one != other:
            rows = [*(one - other), *(other - one)] if isinstance(one, Counter) else []
            wrong.append(f"{name} differs" + (f", such as in {rows[0]}" if rows else ""))
    return wrong


def _files(run: Path) -> set[str]:
    """Names of a run's files that should be alike."""
    names = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return {
        str(name)
        for name in names
        if name.parts[0] not in _OWN and not any(part.startswith(".") for part in name.parts)
    }


def _content(path: Path) -> Any:
    """What is compared of a file: its bytes, but where their order is by chance in every run."""
    content = path.read_bytes()
    if path.name == "metrics.csv":
        return Counter(content.decode().splitlines())
    if path.suffix == ".json" and isinstance(known := json.loads(content), dict):
        known.pop("provenance", None)  # of the session that wrote it
        # Sorted, since PEFT writes a set.
        return {key: sorted(v) if key == "target_modules" else v for key, v in known.items()}
    if path.name == "guidance.safetensors":  # safetensors writes notes as a hash map has them
        length = int.from_bytes(content[:8], "little")
        return json.loads(content[8:][:length]), content[8:][length:]
    return None if path.suffix == ".png" else content
