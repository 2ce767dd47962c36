"""A small toy world, and short runs of the command line on it."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from experiments.robustness.sessions import REPOSITORY, VLYNX, Session, Starter


class Ended(NamedTuple):
    """What a fault led to.

    Args:
        code: exit code of the command that it befell.
        said: what that printed.
        options: of that command.
        again: whether the same command is to be given again.
    """

    code: int
    said: str
    options: dict[str, Any]
    again: bool = True


class World:
    """A small toy world and runs on it.

    Args:
        folder: empty; it is written into.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.halt = folder / "place.halt"
        making = [VLYNX, "toyworld", "3d", f"--out={self.data}", "--scenes=8"]
        subprocess.run(making, check=True, capture_output=True)
        self._starter = Starter()
        self._logs = 0

    def close(self) -> None:
        """End all processes."""
        self._starter.close()

    def begin(self, run: Path, place: str = "", **options: Any) -> Session:
        """Start ``vlynx fit``, or ``test`` where ``options`` say so, and wait until it halts."""
        self._logs += 1
        log = self.folder / f"{self._logs}.log"
        session = self._starter.start(self.command(run, **options), log, self.halt, place)
        if place:
            session.wait_until_halted()
        return session

    def whole(self, run: Path, **options: Any) -> Ended:
        """A session from its beginning to its end."""
        return self.ended(self.begin(run, **options), options)

    def ended(self, session: Session, options: dict[str, Any]) -> Ended:
        """Let a session go on, to its end."""
        return Ended(session.end(), session.said, options)

    def undisturbed(self, kind: str) -> Path:
        """A run that nothing befalls; a test is one of the adapter of such a fit."""
        run = self.folder / f"undisturbed-{kind}"
        if not run.exists() and (ended := self.whole(run, kind=kind)).code:
            raise RuntimeError(f"{kind} fails by itself: ...{ended.said[-2000:]}")
        return run

    def unfinished(self, run: Path) -> None:
        """Make a run that was stopped in its sixth step, with two checkpoints."""
        former = self.folder / "stopped"
        if not former.exists():
            session = self.begin(former, "in step 5")
            os.kill(session.pid, signal.SIGTERM)
            session.end()
        shutil.copytree(former, run)

    def command(self, run: Path, kind: str = "fit", **options: Any) -> list[str]:
        """The command line of a run, the same every time."""
        experiments = REPOSITORY / "experiments"
        own: dict[str, Any] = {"data.root": self.data, "data.num_workers": 0, "run": run}
        callbacks: dict[str, Any] = {
            "experiments.robustness.sessions.Halt": {"file": str(self.halt)}
        }
        if kind == "fit":
            names = ["backbones/miniature", "align/3d"]
            callbacks["callbacks.ReferenceGuidance"] = {"max_batches": 4}
            callbacks["callbacks.AdapterCheckpoint"] = {}
            callbacks["callbacks.AlignmentReport"] = {"max_batches": 2}
            own |= {"data.batch_size": 6, "trainer.max_epochs": 2, "checkpoint.minutes": 0}
            own |= {"model.dropout": 0.0}  # each rank would draw its own
        else:
            names = ["backbones/miniature", "tune/scanqa", "tune/toyworld/scanqa"]
            callbacks["callbacks.AnswerScores"] = {"benchmark": "ScanQA"}
            aligned = self.undisturbed("fit") / "adapters" / "vision-3d"
            own |= {"data.batch_size": 1, "data.benchmark.init_args.annotations": self.data}
            own |= {"model.modalities": json.dumps({"3d": str(aligned)})}
        listed = [{"class_path": name, "init_args": given} for name, given in callbacks.items()]
        settings = self.folder / f"{kind}.yaml"
        settings.write_text(json.dumps({"trainer": {"callbacks": listed}}))
        configs = [*(experiments / f"{name}.yaml" for name in names), settings]
        return [
            *(VLYNX, kind),
            *(f"--config={path}" for path in configs),
            *(f"--{name}={value}" for name, value in (own | options).items()),
        ]
