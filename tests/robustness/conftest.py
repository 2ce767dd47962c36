"""Options, result tables, a miniature world and its runs for the robustness tests."""

import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.datamodules.conftest import write_scannet_scene, write_scanqa
from tests.robustness.commands import Runs
from tests.robustness.in_process import sessions
from vlynx_pl.backbones.tiny import TINY, write_tiny
from vlynx_pl.io.interruption import forget_signals


def pytest_addoption(parser):
    group = parser.getgroup("robustness")
    group.addoption("--kills", type=int, default=50, help="number of kills in tests marked crash")
    group.addoption("--seed", type=int, default=0, help="for damaged inputs and kills")


@pytest.fixture(scope="session")
def seed(request) -> int:
    return request.config.getoption("--seed", 0)


@pytest.fixture
def note(request):
    """A function that adds to a table printed at the end: (title, first column, other columns).

    Integers are summed over calls with the same row, and over all rows in the last one.
    """

    def add(title: str, row: str, cells: dict[str, Any]) -> None:
        request.node.user_properties.append((title, {"row": row, "cells": cells}))

    return add


def pytest_terminal_summary(terminalreporter):
    tables = defaultdict(lambda: defaultdict(dict))
    for reports in terminalreporter.stats.values():
        for report in reports:
            for title, row in getattr(report, "user_properties", ()) if _is_last(report) else ():
                _add(tables[title][row["row"]], row["cells"])
    for title, rows in tables.items():
        terminalreporter.write_line(_drawn(title, rows))


def _is_last(report) -> bool:
    """Whether it is the last of a test's reports, all of which have its properties."""
    return getattr(report, "when", "") == "teardown"


def _add(row, cells) -> None:
    for column, cell in cells.items():
        row[column] = row.get(column, 0) + cell if isinstance(cell, int) else cell


def _drawn(title, rows) -> str:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table("", title=escape(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    total: dict[str, Any] = {}
    for column in columns:
        table.add_column(column, overflow="fold")
    for name, row in rows.items():
        table.add_row(escape(name), *(escape(str(row.get(c) or "·")) for c in columns))
        _add(total, {c: cell for c, cell in row.items() if isinstance(cell, int)})
    if total:
        table.add_section()
        table.add_row("all", *(str(total.get(c) or "·") for c in columns))
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Seven scenes to train on, not a multiple of the batch size, and two to validate on.

    All scenes differ, so that a run that reads them in another order gets another result.
    """
    root = tmp_path_factory.mktemp("world")
    for number in range(9):
        write_scannet_scene(root / "scans" / f"scene000{number}_00", [25 * number])
    for split, file, scenes in (
        ("train", "train", range(7)),
        ("val", "val", (7, 8)),
        ("test", "test_w_obj", (7, 8)),
    ):
        questions = [
            (scene, f"{split}-{scene}-{i}", f"What is the colour of thing {i}?")
            for scene in scenes
            for i in range(1 + scene % 3)
        ]
        write_scanqa(root, file, questions)
        if split != "test":  # the scenes of val
            listed = "".join(f"scene000{scene}_00\n" for scene in scenes)
            (root / f"scannetv2_{split}.txt").write_text(listed)
    return root


@pytest.fixture(scope="session", params=TINY)
def tiny(request, tmp_path_factory):
    """The tiny model of each family."""
    folder = tmp_path_factory.mktemp("tiny") / request.param
    write_tiny(request.param, folder)
    return folder


@pytest.fixture(scope="session")
def runs(world, tmp_path_factory):
    """The command line's runs on the world."""
    made = Runs(tmp_path_factory.mktemp("runs"), world)
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(world, tmp_path_factory):
    """A function: (stage, ranks) → folder of a run that was not stopped, made in this process.

    It saved no checkpoint between validations.
    """
    made: dict[tuple, Path] = {}

    def run(stage: str, ranks: int = 1, **options) -> Path:
        key = (stage, ranks, *options.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run")
            sessions(ranks, world, made[key], stage, minutes=1000, **options)
        return made[key]

    return run


@pytest.fixture
def own_process(monkeypatch):
    """For runs in this process: restores its signal handlers, and skips fsync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no test cuts the power
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    forget_signals()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
