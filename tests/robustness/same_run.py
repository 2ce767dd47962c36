"""Compares everything that two finished runs have made."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

_OWN: Final = {"config.yaml", "provenance.json", "checkpoints", "tensorboard"}
"""Not compared, since they hold paths, processes or dates."""

_VARYING: Final = {"train/clips_per_s", "train/visual_tokens_per_s", "train/mfu"}
"""Columns of metrics.csv that are not compared, since they depend on the clock."""


def differences(run: Path, whole: Path, within: float = 0.0) -> list[str]:
    """Return the first difference in each file of a run; each text begins with the file's name.

    Args:
        run: the run to check.
        whole: the run that it should equal.
        within: tolerance for numbers, absolute and relative.
    """
    files, others = _files(run), _files(whole)
    wrong = [f"{name} is missing" for name in sorted(others - files)]
    wrong += [f"{name} should not be there" for name in sorted(files - others)]
    for name in sorted(files & others):
        contents = (_content(each / name, within == 0) for each in (run, whole))
        wrong += list(_unlike(*contents, within, name))[:1]
    return wrong


def _files(run: Path) -> set[str]:
    names = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return {
        str(name)
        for name in names
        if name.parts[0] not in _OWN and not any(part.startswith(".") for part in name.parts)
    }


def _content(path, exact):
    """Return what is compared of a file, without what differs between any two runs."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {"notes": file.metadata()} | load_file(path)
    if path.name == "metrics.csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        head = [name for name in rows[0] if name not in _VARYING]
        numbers = [[float(row[name]) if row[name] else None for name in head] for row in rows]
        step = head.index("step")
        # Rows of training and of validation may come in either order.
        return [head, sorted(numbers, key=lambda row: ([c is None for c in row], row[step], row))]
    if path.name.startswith("seen-"):  # of a repeated step, the last line counts
        return {tuple(row[:2]): row for row in map(json.loads, path.read_text().splitlines())}
    if path.suffix == ".json" and isinstance(known := json.loads(path.read_bytes()), dict):
        known.pop("provenance", None)
        # PEFT writes a set in any order.
        return {key: sorted(v) if key == "target_modules" else v for key, v in known.items()}
    if path.name == "README.md":  # a model card; the commit is provenance
        lines = [line for line in path.read_text().splitlines() if not line.startswith("| Code |")]
        # Its figures are rounded ones of other files.
        return lines if exact else [re.sub(r"[\d.e+-]*\d", "0", line) for line in lines]
    return None if path.suffix == ".png" else path.read_bytes()


def _unlike(one, other, within, place):
    """Yield the differences between two contents."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _unlike(one[key], other[key], within, f"{place}, {key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (mine, its) in enumerate(zip(one, other, strict=True)):
            yield from _unlike(mine, its, within, f"{place}, {number}")
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            yield f"{place} has another shape or type"
        elif not torch.allclose(one, other, rtol=within, atol=within):
            yield f"{place} differs by {(one - other).abs().max():.0e}"
    elif not (one == other or _close(one, other, within)):
        yield f"{place} differs: {one!r:.100} and not {other!r:.100}"


def _close(one, other, within) -> bool:
    numbers = isinstance(one, float) and isinstance(other, float)
    return numbers and math.isclose(one, other, rel_tol=within, abs_tol=within)
