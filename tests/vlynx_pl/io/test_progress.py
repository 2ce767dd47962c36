"""Progress of loops: a bar on a terminal, lines elsewhere, nothing on other ranks."""

import io
import subprocess
import sys
from itertools import islice

import pytest
import rich
from rich.console import Console

from vlynx_pl.io.progress import first_rank, track


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds, items):
        for item in items:
            self.now += seconds
            yield item


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def test_a_long_loop_prints_a_line_every_half_minute(clock, capsys):
    assert len(list(track(clock.taking(1, "x" * 75), "Checking", 75))) == 75
    assert capsys.readouterr().err.splitlines() == [
        "Checking: 0 of 75, 00:00",
        "Checking: 30 of 75, 00:30, 00:45 left",
        "Checking: 60 of 75, 01:00, 00:15 left",
        "Checking: 75 of 75, 01:15",
    ]


def test_the_time_left_waits_for_a_few_items(clock, capsys):
    """The first one waits for workers to start and files to come from a slow disk."""
    assert len(list(track(clock.taking(40, "x" * 4), "Checking", 4))) == 4
    assert capsys.readouterr().err.splitlines() == [
        "Checking: 0 of 4, 00:00",
        "Checking: 1 of 4, 00:40",
        "Checking: 2 of 4, 01:20",
        "Checking: 3 of 4, 02:00, 00:39 left",
        "Checking: 4 of 4, 02:40",
    ]


def test_the_length_of_a_collection_is_used(capsys):
    assert list(track([], "Copying")) == []
    assert list(track({"a": 1}.items(), "Copying")) == [("a", 1)]
    assert (
        capsys.readouterr().err
        == "Copying: 0 of 0, 00:00\nCopying: 0 of 1, 00:00\nCopying: 1 of 1, 00:00\n"
    )


def test_items_are_taken_one_by_one_and_errors_come_through(capsys):
    taken = []

    def items():
        for i in range(10):
            taken.append(i)
            yield i
        raise ValueError("the last one")

    assert list(islice(track(items(), "Reading"), 3)) == [0, 1, 2] and taken == [0, 1, 2]
    with pytest.raises(ValueError, match="the last one"):
        list(track(items(), "Reading"))


def test_a_terminal_has_a_transient_bar(monkeypatch, capsys):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(rich, "_console", console)
    assert list(track(range(3), "Checking")) == [0, 1, 2]
    assert "Checking" in screen.getvalue() and "100%" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K"), "the last thing is that the line is wiped"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_other_ranks_are_silent(monkeypatch, capsys, rank):
    monkeypatch.setenv(rank, "3")
    assert list(track(range(3), "Checking")) == [0, 1, 2]
    monkeypatch.setenv(rank, "0")
    assert list(track(range(3), "Checking", disable=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(track(range(3), "Checking")) == [0, 1, 2]
    assert capsys.readouterr().err == "Checking: 0 of 3, 00:00\nChecking: 3 of 3, 00:00\n"


def test_ranks_that_a_launcher_sets_to_nothing_are_the_first():
    assert first_rank({}) and first_rank({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": ""})


def test_lines_are_in_the_log_when_the_process_is_killed():
    code = (
        "import os\nfrom vlynx_pl.io.progress import track\n"
        "for _ in track([1], 'Checking'): os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == -9 and run.stdout == "" and run.stderr == "Checking: 0 of 1, 00:00\n"
