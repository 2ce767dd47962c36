"""What was logged stays, and what is done again is there once."""

import csv
from pathlib import Path

from vlynx_pl.runs.metrics_log import MetricsLog


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_an_earlier_session_stay_and_repeated_steps_replace_theirs(tmp_path):
    first = MetricsLog(tmp_path)
    for step in range(3):
        varying = {"train/mfu": 0.5} if step == 2 else {}  # a session has it, another has not
        first.log_metrics({"train/loss": 0.1 + step, "epoch": 0, **varying}, step)
    first.log_metrics({"val/loss": 7.25, "epoch": 0}, 2)
    first.finalize("failed")
    second = MetricsLog(tmp_path)
    second.log_metrics({"train/loss": 2.5, "epoch": 0}, 2)
    second.log_metrics({"train/loss": 1 / 3, "other": 1.0, "epoch": 1}, 3)
    second.save()
    logged = rows(tmp_path)
    assert [(row["step"], row["train/loss"], row["val/loss"]) for row in logged] == [
        ("0", "0.1", ""),
        ("1", "1.1", ""),
        ("2", "2.5", ""),
        ("2", "", "7.25"),
        ("3", repr(1 / 3), ""),
    ]
    assert logged[0]["epoch"] == "0"


def test_an_empty_log_is_not_written(tmp_path):
    MetricsLog(tmp_path).save()
    assert not list(tmp_path.iterdir())
