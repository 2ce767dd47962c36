"""``vlynx check``: how much of the data a run can use, as a table and a list."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.base import ModalityDataModule
from datamodules.benchmarks.base import SPLITS
from datamodules.loading.contact_sheet import save_contact_sheet
from datamodules.loading.inspection import Finding
from datamodules.media.unpacking import count_packed, zips
from datamodules.samples import BadSample, Trouble
from vlynx_pl.io.files import write_rows

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
        csv_path: file for one row per recording: part, name, status, file, reason, remedy.
        coverage: share of a part's recordings that must be usable.
        picture: file for a contact sheet of the first frames that a run would see, PNG.

    Returns:
        Whether every part reaches ``coverage``.

    Raises:
        BadSample: the benchmark has not all files of any split.
    """
    parts = data.serving.recordings.parts()
    if (benchmark := data.benchmark) is not None and not parts:  # raise what is missing
        benchmark.episodes(next(split for split in SPLITS if benchmark.files(split)))
    data.cache_dir = None  # a cache says nothing about the files
    findings = data.inspect(parts, read=True)
    if csv_path is not None:
        write_rows(csv_path, _rows(findings))
    # Without annotations, test recordings are optional.
    if data.benchmark is None and not any(finding.part == "test" for finding in findings):
        parts = tuple(part for part in parts if part != "test")
    console = Console()
    console.print(f"Coverage of {escape(str(data.root))}", soft_wrap=True, highlight=False)
    console.print(table(findings, parts))
    for line in absent(findings, Path(data.root)):
        console.print(f"[bold yellow]missing[/]: {escape(line)}", soft_wrap=True, highlight=False)
    for doubt in data.joined.doubts(thorough=True):
        console.print(f"[bold yellow]doubtful[/]: {escape(doubt)}", soft_wrap=True, highlight=False)
    enough = True
    for part in parts:
        of_part = [finding for finding in findings if finding.part == part]
        usable = sum(not finding.bad for finding in of_part)
        if of_part and usable >= coverage * len(of_part):
            continue
        enough = False
        first = next((str(finding.bad[0]) for finding in of_part if finding.bad), "there is none")
        console.print(
            f"[bold red]{part}[/]: {usable} of {len(of_part)} recordings can be used, fewer than "
            f"{coverage:.0%}: {escape(first)}",
            soft_wrap=True,
            highlight=False,
        )
    if picture is not None:
        save_contact_sheet(data, findings, picture)
    return enough


def status(finding: Finding) -> str:
    """``ok``, or the first kind of trouble."""
    return finding.bad[0].trouble if finding.bad else "ok"


def absent(findings: Sequence[Finding], root: Path) -> Iterator[str]:
    """How many recordings are missing in which folders, and what zips of ``root`` still hold."""
    missing = [finding.bad[0].path for finding in findings if status(finding) == "missing"]
    folders = Counter(Path(path).parent for path in missing)
    if not folders:
        return
    yield ", ".join(f"{count} in {folder}" for folder, count in folders.most_common())
    for archive in zips(root):
        try:
            count = count_packed(archive)
        except BadSample as bad:
            yield str(bad)
        else:
            if count:
                yield f"{count} not unpacked from {archive}; run vlynx prepare unpack {root}"


def table(findings: list[Finding], parts: Sequence[str]) -> Table:
    """One row per part: expected, present and usable recordings, and troubles by kind."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 0))
    troubles = [t for t in _TROUBLES[1:] if any(status(finding) == t for finding in findings)]
    for column in ("part", "expected", "present", "ok", *troubles):
        shown.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
    for part in parts:
        counts = Counter(status(finding) for finding in findings if finding.part == part)
        present = counts.total() - counts["missing"]
        figures = [counts.total(), present, counts["ok"], *(counts[t] for t in troubles)]
        shown.add_row(part, *map(str, figures))
    return shown


def _rows(findings: list[Finding]) -> Iterator[Sequence[object]]:
    yield "part", "name", "status", "file", "reason", "remedy"
    for finding in findings:
        if not finding.bad:
            yield finding.part, finding.name, "ok", "", "", ""
        for bad in finding.bad:
            yield finding.part, finding.name, bad.trouble, bad.path, bad.reason, bad.remedy
