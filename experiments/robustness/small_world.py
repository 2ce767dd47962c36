"""A small toy world, and short runs of the command line on it."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

from experiments.robustness.sessions import Session, Starter
from experiments.robustness.toy_runs import command, make_world


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
        make_world(self.data, scenes=8)
        self._starter = Starter()
        self._logs = 0

    def close(self) -> None:
        """End all processes."""
        self._starter.close()

    def begin(self, run: Path, place: str = "", **options: Any) -> Session:
        """Start an alignment, or the ``kind`` in ``options``, and wait until it halts."""
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
        """A run that nothing befalls; answers are those of such an alignment's adapter."""
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

    def command(self, run: Path, kind: str = "alignment", **options: Any) -> list[str]:
        """The command line of a run, the same every time."""
        callbacks: dict[str, Any] = {
            "experiments.robustness.sessions.Halt": {"file": str(self.halt)}
        }
        own: dict[str, Any] = {"data.num_workers": 0}
        aligned = None
        if kind == "alignment":
            callbacks["callbacks.ReferenceGuidance"] = {"max_batches": 4}
            callbacks["callbacks.AlignmentReport"] = {"max_batches": 2}
            own |= {"data.batch_size": 6, "trainer.max_epochs": 2, "checkpoint.minutes": 0}
            own |= {"model.lora.dropout": 0.0}  # each rank would draw its own
        else:
            own |= {"data.batch_size": 1}
            aligned = self.undisturbed("alignment")
        listed = [{"class_path": name, "init_args": given} for name, given in callbacks.items()]
        return command(kind, run, self.data, listed, aligned, **own | options)
