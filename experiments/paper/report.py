"""Reads the study's runs and writes what they say: RESULTS.md, results.csv and plots."""

from collections.abc import Sequence
from pathlib import Path

from experiments.paper.study import Place


def write_report(out: Path, place: Place, seeds: Sequence[int]) -> None:
    """Write the report of all runs that have finished."""
