"""Progress of loops: a bar on a terminal, lines elsewhere, nothing on other ranks."""

import io
import subprocess
import sys
import time
from itertools import islice

import pytest
import rich
from rich.console import Console

from vlynx_pl.io.progress import Lines, duration, first_rank, track


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
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_a_long_loop_prints_a_line_every_half_minute(clock, capsys):
    assert len(list(track(clock.taking(1, "x" * 75), "Checking", 75))) == 75
    assert capsys.readouterr().err.splitlines() == [
        "Checking: 0 of 75",
        "Checking: 30 of 75, 30 s, 45 s left",
        "Checking: 60 of 75, 1 min 0 s, 15 s left",
        "Checking: 75 of 75, 1 min 15 s",
    ]


def test_the_time_left_waits_for_a_few_items_and_leaves_out_the_first(clock, capsys):
    """The first one waits for workers to start and files to come from a slow disk."""
    lines = Lines("Checking:", 1000)
    clock.now += 60
    lines.at(1)
    clock.now += 30
    lines.at(3)
    clock.now += 30
    lines.at(4, "loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "Checking: 1 of 1000, 1 min 0 s",
        "Checking: 3 of 1000, 1 min 30 s",
        "Checking: 4 of 1000, 2 min 0 s, 5 h 32 min left, loss 0.5",
    ]


def test_the_length_of_a_collection_is_used(capsys):
    assert list(track([], "Copying")) == []
    assert list(track({"a": 1}.items(), "Copying")) == [("a", 1)]
    assert capsys.readouterr().err == "Copying: 0 of 0\nCopying: 0 of 1\n"


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
    assert capsys.readouterr().err == "Checking: 0 of 3\n"


def test_ranks_that_a_launcher_sets_to_nothing_are_the_first():
    assert first_rank({}) and first_rank({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": ""})


def test_lines_are_in_the_log_when_the_process_is_killed():
    code = (
        "import os\nfrom vlynx_pl.io.progress import track\n"
        "for _ in track([1], 'Checking'): os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == -9 and run.stdout == "" and run.stderr == "Checking: 0 of 1\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (41, "41 s"), (59.7, "1 min 0 s"), (3599.6, "1 h 0 min"), (90061, "25 h 1 min")],
)
def test_durations_are_readable(seconds, said):
    assert duration(seconds) == said
