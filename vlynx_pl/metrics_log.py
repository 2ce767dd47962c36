"""``metrics.csv``: what was logged, however often the run was stopped and went on."""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from vlynx_pl.files import atomic_file

_SECONDS = 10.0  # between two times that the file is written


class MetricsLog(Logger):
    """One row for a step and a set of metrics; steps that are done again replace their rows.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._path = run / "metrics.csv"
        self._rows: dict[tuple[str, frozenset[str]], dict[str, Any]] | None = None
        self._saved_at = time.monotonic()

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self._path.parent)

    @override
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: they are in config.yaml."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._put({**metrics, "step": step or 0})
        if time.monotonic() - self._saved_at > _SECONDS:
            self.save()

    @override
    @rank_zero_only
    def save(self) -> None:
        rows = self._read()
        if rows:
            columns = sorted({name for row in rows.values() for name in row})
            with (
                atomic_file(self._path) as unfinished,
                unfinished.open("w", newline="") as file,
            ):
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows.values())
        self._saved_at = time.monotonic()

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _put(self, row: dict[str, Any]) -> None:
        self._read()[str(row["step"]), frozenset(row)] = row

    def _read(self) -> dict[tuple[str, frozenset[str]], dict[str, Any]]:
        """All rows, those of earlier sessions first."""
        if self._rows is None:
            self._rows = {}
            if self._path.is_file():
                with self._path.open(newline="") as file:
                    for row in csv.DictReader(file):
                        self._put({name: value for name, value in row.items() if value != ""})
        return self._rows
