"""What a run will find of its data: a table and a list, before hours are spent on it."""

import csv
from collections import Counter
from pathlib import Path
from typing import Final, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.base import Finding, ModalityDataModule
from datamodules.contact_sheet import save_contact_sheet
from datamodules.samples import Trouble
from vlynx_pl.files import atomic_file

_TROUBLES: Final[tuple[Trouble, ...]] = get_args(Trouble)


def check(
    data: ModalityDataModule,
    csv_path: Path | None = None,
    coverage: float = 1.0,
    picture: Path | None = None,
) -> bool:
    """Read everything that a run would read, and print how much of it can be used.

    Args:
        data: a data module that was not set up.
        csv_path: file for a row a recording: part, name, status, file, reason, remedy.
        coverage: share of a part's recordings that must be usable.
        picture: file for a picture of the first frames that a run would see, PNG.

    Returns:
        Whether every part reaches ``coverage``.
    """
    parts = data.parts()
    data.cache_dir = None  # what is in a cache says nothing of the files
    findings = data.inspect(parts, read=True, stop=False)
    if csv_path is not None:
        _write(findings, csv_path)
    console = Console()
    console.print(table(findings, str(data.root)))
    found = dict.fromkeys(finding.part for finding in findings)
    short = [part for part in found if usable_share(findings, part) < coverage]
    for part in short:
        first = next(finding.bad[0] for finding in findings if finding.part == part and finding.bad)
        console.print(
            f"[bold red]{part}[/]: {usable_share(findings, part):.1%} of the recordings can be "
            f"used, fewer than {coverage:.0%}. The first cannot, because {escape(str(first))}",
            soft_wrap=True,
            highlight=False,
        )
    if picture is not None:
        save_contact_sheet(data, findings, picture)
    return not short


def usable_share(findings: list[Finding], part: str) -> float:
    """Share of a part's recordings with nothing bad."""
    good = [not finding.bad for finding in findings if finding.part == part]
    return sum(good) / len(good)


def status(finding: Finding) -> str:
    """``ok``, or the first trouble."""
    return finding.bad[0].trouble if finding.bad else "ok"


def table(findings: list[Finding], title: str) -> Table:
    """A row a part: expected, present, usable, and what is the matter with the others."""
    shown = Table(title=f"Coverage of {title}", box=SIMPLE_HEAD, padding=(0, 0))
    for column in ("part", "expected", "present", "ok", *_TROUBLES[1:]):
        shown.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
    for part in dict.fromkeys(finding.part for finding in findings):
        counts = Counter(status(finding) for finding in findings if finding.part == part)
        present = counts.total() - counts["missing"]
        figures = [counts.total(), present, counts["ok"], *(counts[t] for t in _TROUBLES[1:])]
        shown.add_row(part, *map(str, figures))
    return shown


def _write(findings: list[Finding], path: Path) -> None:
    with atomic_file(path) as unfinished, unfinished.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["part", "name", "status", "file", "reason", "remedy"])
        for finding in findings:
            if not finding.bad:
                rows.writerow([finding.part, finding.name, "ok", "", "", ""])
            for bad in finding.bad:
                rows.writerow(
                    [finding.part, finding.name, bad.trouble, bad.path, bad.reason, bad.remedy]
                )
