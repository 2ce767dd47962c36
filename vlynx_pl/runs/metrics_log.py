"""``metrics.csv``: the logged metrics of all sessions of a run."""

import csv
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.files import write_rows

_SECONDS = 10.0  # between two writes


class MetricsLog(Logger):
    """Writes one row per step and kind of metrics; a repeated step replaces the values in its row.

    The kind is the part of a name before ``/``, such as ``train`` or ``val``.

    Args:
        run: folder of the run.

    Raises:
        UserError: the file of an earlier session cannot be read.
    """

    name = version = ""  # the run folder has no subfolder for them

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._path = run / "metrics.csv"
        self._rows: dict[tuple[str, frozenset[str]], dict[str, Any]] = {}
        if self._path.is_file():
            self._read()
        self._saved_at = time.monotonic()

    @property
    @override
    def save_dir(self) -> str:
        return str(self._path.parent)

    @override
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: they are in config.yaml."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._put({**metrics, "step": step or 0})
        if time.monotonic() - self._saved_at > _SECONDS:
            self.save()

    @override
    @rank_zero_only
    def save(self) -> None:
        if self._rows:
            columns = sorted({name for row in self._rows.values() for name in row})
            rows = ([row.get(name) for name in columns] for row in self._rows.values())
            write_rows(self._path, [columns, *rows])
        self._saved_at = time.monotonic()

    def _put(self, row: dict[str, Any]) -> None:
        kinds = frozenset(name.partition("/")[0] for name in row)
        self._rows.setdefault((str(row["step"]), kinds), {}).update(row)

    def _read(self) -> None:
        """Read the rows of earlier sessions."""
        try:
            with self._path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    if not row.get("step") or None in row:
                        raise ValueError("a row has no step, or more values than there are names")
                    self._put({name: value for name, value in row.items() if value})
        except (*PARSE_ERRORS, csv.Error) as error:
            raise UserError(
                f"{self._path} cannot be read ({error}); move it away to start a new one"
            ) from error
