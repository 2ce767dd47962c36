"""Answers on disk as they come, so that a run which is stopped asks nothing twice."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlynx_pl.io.errors import PARSE_ERRORS
from vlynx_pl.metrics.answered import Answered, decoded, encoded


class KeptAnswers:
    """``answers-<split>.<rank>.unfinished.jsonl``: what made them, then an answer a line.

    Every rank writes a file of its own and reads those of all ranks, also of those that there were
    in an earlier session. Nothing in a file is used if it was made otherwise.

    Args:
        run: folder of the run.
        split: what is asked.
        made_with: all that answers depend on: plain numbers and names.
        rank: this process.
    """

    def __init__(self, run: Path, split: str, made_with: Mapping[str, Any], rank: int = 0) -> None:
        self._run, self._pattern = run, f"answers-{split}.*.unfinished.jsonl"
        self._own = run / self._pattern.replace("*", str(rank))
        self._made_with = json.loads(json.dumps(made_with))
        self._begun = False

    def read(self) -> dict[str, Answered]:
        """Id → answer, of all files that were made with these settings."""
        return {
            answer.id: answer
            for path in self._files()
            if self._fits(path)
            for line in path.read_bytes().splitlines()[1:]
            for answer in _whole(line)
        }

    def remove_others(self) -> list[Path]:
        """Remove the files that were made with other settings, and say which they were."""
        others = [path for path in self._files() if not self._fits(path)]
        for path in others:
            path.unlink()
        return others

    def keep(self, answered: Sequence[Answered]) -> None:
        """Append answers; they are on their way to the disk when this returns."""
        self._run.mkdir(parents=True, exist_ok=True)
        with self._own.open("ab") as file:
            if not file.tell():
                file.write(json.dumps({"made_with": self._made_with}).encode("ascii"))
            if not self._begun:
                file.write(b"\n")  # ends what a kill may have left half written
                self._begun = True
            file.write(encoded(answered))

    def remove(self) -> None:
        """Remove all files; their answers are elsewhere."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._run.glob(self._pattern))

    def _fits(self, path: Path) -> bool:
        with path.open("rb") as file:
            header = file.readline()
        with suppress(*PARSE_ERRORS):
            return bool(json.loads(header) == {"made_with": self._made_with})
        return False


def _whole(line: bytes) -> list[Answered]:
    """The answer of a line, or none: a half line, which is asked again."""
    with suppress(*PARSE_ERRORS):
        return decoded(line)
    return []
