"""What the robustness tests share: options, and figures for a table."""

from collections import defaultdict
from typing import Any

import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def pytest_addoption(parser):
    group = parser.getgroup("robustness")
    group.addoption("--seed", type=int, default=0, help="of damaged inputs")


@pytest.fixture(scope="session")
def seed(request) -> int:
    return request.config.getoption("--seed", 0)


@pytest.fixture
def note(request):
    """Adds to a table that is printed at the end: (its title, first column, other columns).

    Numbers of one row are summed up, and of all rows at the end.
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
    """Properties come with every phase of a test."""
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
