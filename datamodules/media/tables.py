"""Reading tables of numbers from text files."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.samples import BadSample


def read_table(path: Path, columns: str, delimiter: str | None = None) -> Tensor:
    """Read a table of finite numbers, float64 (N, C) with N ≥ 2; ``#`` starts a comment.

    Args:
        path: a text file, one row per line.
        columns: their names, separated by spaces.
        delimiter: between two numbers; None is any white space.

    Raises:
        BadSample: the file is missing, or does not contain such a table.
    """
    remedy = f"Export it again: in each line {columns}, separated by {delimiter or 'spaces'}"
    try:
        with path.open(encoding="utf-8") as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            table = torch.from_numpy(np.loadtxt(file, delimiter=delimiter, ndmin=2))
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = f"is not a table of numbers ({error})"
        raise BadSample(path, reason, remedy, "missing" if missing else "unreadable") from error
    if len(table) < 2:
        raise BadSample(path, f"has {len(table)} rows", remedy, "too short")
    if table.shape[1] != len(columns.split()) or not table.isfinite().all():
        reason = f"has {table.shape[1]} columns, or numbers that are not finite"
        raise BadSample(path, reason, remedy)
    return table
