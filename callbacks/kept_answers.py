"""Answers kept on disk as they come, so that a stopped run asks no question twice."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlynx_pl.io.errors import PARSE_ERRORS
from vlynx_pl.metrics.answered import Answered, decoded, encoded


class KeptAnswers:
    """Files ``answers-<split>.<settings>.<rank>.unfinished.jsonl`` with one answer per line.

    Each process appends to its own file and reads the files of all ranks, including those of an
    earlier session with more processes. Answers made with other settings are never used, as the
    name holds a hash of the settings.

    Args:
        run: folder of the run.
        split: the questions' split.
        made_with: everything that the answers depend on, as plain numbers and names.
        rank: of this process.
    """

    def __init__(self, run: Path, split: str, made_with: Mapping[str, Any], rank: int = 0) -> None:
        settings = json.dumps(made_with, sort_keys=True).encode()
        self._run, self._split = run, split
        self._settings = hashlib.sha256(settings).hexdigest()[:12]
        self._own = run / f"answers-{split}.{self._settings}.{rank}.unfinished.jsonl"

    def read(self) -> dict[str, Answered]:
        """Return id → answer from all files made with these settings."""
        return {
            answer.id: answer
            for path in self._files(self._settings)
            for line in path.read_bytes().splitlines()
            for answer in _complete(line)
        }

    def remove_others(self) -> list[Path]:
        """Remove and return the files made with other settings."""
        own = self._files(self._settings)
        others = [path for path in self._files("*") if path not in own]
        for path in others:
            path.unlink()
        return others

    def keep(self, answered: Sequence[Answered]) -> None:
        """Append answers; they are handed to the operating system before this returns."""
        self._run.mkdir(parents=True, exist_ok=True)
        with self._own.open("ab") as file:
            file.write(b"\n" + encoded(answered))  # ends a line that a kill may have cut off

    def remove(self) -> None:
        """Remove all files, once the answers are elsewhere."""
        for path in self._files("*"):
            path.unlink()

    def _files(self, settings: str) -> list[Path]:
        return sorted(self._run.glob(f"answers-{self._split}.{settings}.*.unfinished.jsonl"))


def _complete(line: bytes) -> list[Answered]:
    """Decode a line; half a line gives nothing, and its question is asked again."""
    with suppress(*PARSE_ERRORS):
        return decoded(line)
    return []
