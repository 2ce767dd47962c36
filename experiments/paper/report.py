"""What the study's runs say: RESULTS.md with a table and a plot each, and results.csv of all runs.

Every number comes from the files of the run whose folder stands in its row of results.csv.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Any, Final

from safetensors import safe_open

from callbacks import AlignmentReport
from callbacks.alignment_report import health_warnings
from experiments.paper.published import PUBLISHED
from experiments.paper.study import SENSES, Alignment, Place, Tuning
from experiments.paper.tables import TABLES, Row, plain
from vlynx_pl.files import atomic_file

# Student's t for an interval of 95 %, by degrees of freedom.
_T95: Final = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
_SCORE: Final = "music_avqa/strict"
Scores = dict[Tuning, dict[str, float]]


@dataclass(frozen=True)
class Health:
    """What an alignment's report says of its tokens on held-out frames."""

    attn: float  # mean gap over layers
    video_attn: float
    stat: float
    variance: float  # between samples, % of RGB video's
    rank: float  # effective rank, % of RGB video's
    warned: bool


def health(alignment: Alignment, place: Place) -> Health | None:
    """Of an alignment that has finished."""
    path = alignment.result(place)
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    video, after = report["video"], report["after"]
    # By today's rule, which a run may be older than.
    gaps = {when: SimpleNamespace(**report[when]) for when in ("video", "before", "after")}
    return Health(
        mean(after["attention_per_layer"]),
        mean(video["attention_per_layer"]),
        after["stat"],
        100 * after["sample_variance"] / video["sample_variance"],
        100 * after["effective_rank"] / video["effective_rank"],
        bool(health_warnings(gaps, AlignmentReport().healthy_share)),
    )


def score(tuning: Tuning, place: Place, sense: str) -> dict[str, float]:
    """Percentage of right answers to questions for a sense: ``all`` and by kind; else empty."""
    path = tuning.result(place)
    if not path.exists():
        return {}
    figures = json.loads(path.read_text())
    right = f"{_SCORE}/modality/{SENSES[sense].world}"
    kinds = {
        name.removeprefix(f"{right}/"): value
        for name, value in figures.items()
        if name.startswith(f"{right}/")
    }
    return {"all": figures[right], **kinds}


def scores(row: Row, place: Place) -> Scores:
    """Those of a row's runs that have finished."""
    found = {tuning: score(tuning, place, row.sense) for tuning in row.tunings}
    return {tuning: right for tuning, right in found.items() if right}


def trained(tuning: Tuning, place: Place) -> int:
    """How many parameters were trained for it, in both stages."""
    folders = [(place.runs / tuning.name / "adapters")]
    folders += [alignment.adapter(place) for alignment in tuning.alignments]
    count = 0
    for file in (file for folder in folders for file in folder.rglob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        count += sum(math.prod(shape) for shape in shapes)
    return count


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval over three seeds or more (Student's t)."""
    if len(values) < 3:
        return mean(values), math.nan
    quantile = _T95.get(len(values) - 1, 2.2)  # a little too wide for more seeds than that
    return mean(values), quantile * stdev(values) / math.sqrt(len(values))


def write_report(out: Path, place: Place, seeds: Sequence[int]) -> None:
    """Write the report of all runs that have finished; tables hardly begun are left out."""
    out.mkdir(parents=True, exist_ok=True)
    summary = out / "summary.md"
    parts = [summary.read_text()] if summary.exists() else []
    lines: list[dict[str, Any]] = []
    for name, rows_of in TABLES.items():
        rows = rows_of(seeds)
        found = {row: scores(row, place) for row in rows}
        if 2 * sum(map(bool, found.values())) <= len(rows):  # hardly begun
            continue
        lines += [
            _line(name, row, tuning, right, place)
            for row in rows
            for tuning, right in found[row].items()
        ]
        plot(out / f"{name}.png", found)
        parts += [_table(name, rows_of.__doc__ or "", found, place), f"![{name}]({name}.png)\n"]
    parts.append(_confusion(place, seeds))
    with atomic_file(out / "RESULTS.md") as unfinished:
        unfinished.write_text("\n".join(parts))
    write_csv(out / "results.csv", lines)


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns that any of them has."""
    with atomic_file(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)


def _line(
    table: str, row: Row, tuning: Tuning, right: Mapping[str, float], place: Place
) -> dict[str, Any]:
    """A run's row of results.csv."""
    made_at = json.loads(tuning.result(place).read_text())["provenance"]["git"]
    line: dict[str, Any] = {
        "table": table,
        "sense": row.sense,
        "row": row.label,
        "seed": tuning.seed,
        "trained": trained(tuning, place),
        "run": str(tuning.result(place).parent),
        "alignment": " ".join(str(a.result(place).parent) for a in tuning.alignments),
        "commit": (made_at or {}).get("commit"),
    }
    line |= {f"accuracy {kind}": round(value, 2) for kind, value in right.items()}
    if (only := _only(tuning)) and (found := health(only, place)):
        line |= {name: round(value, 4) for name, value in vars(found).items()}
    return line


def _only(tuning: Tuning) -> Alignment | None:
    """Its alignment, where it is of one sense alone."""
    own = [alignment for alignment in tuning.alignments if alignment.sense == tuning.sense]
    return own[0] if own else None


def _table(name: str, title: str, found: Mapping[Row, Scores], place: Place) -> str:
    aligned = any(_only(tuning) for runs in found.values() for tuning in runs)
    columns = ["sense", "", "right answers, %", "seeds", "trained"]
    columns += ["L_attn", "L_stat", "variance, %", "rank, %", "warned"] if aligned else []
    published = PUBLISHED.get(name, {})
    columns += ["the paper's"] if published else []
    text = [f"## {title.rstrip('.')}\n", " | ".join(["", *columns, ""]).strip()]
    text.append("|" + "---|" * len(columns))
    for row, runs in found.items():
        if not runs:
            continue
        middle, half = interval([right["all"] for right in runs.values()])
        cells = [SENSES[row.sense].title, row.label]
        cells.append(f"{middle:.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}"))
        cells += [str(len(runs)), f"{trained(next(iter(runs)), place):,}"]
        if aligned:
            cells += _health_cells([only for tuning in runs if (only := _only(tuning))], place)
        cells += [published.get((row.sense, row.label), "")] if published else []
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _health_cells(alignments: Sequence[Alignment], place: Place) -> list[str]:
    known = [found for a in alignments if (found := health(a, place))]
    if not known:
        return [""] * 5
    return [
        f"{mean(h.attn for h in known):.3f}",
        f"{mean(h.stat for h in known):.1f}",
        f"{mean(h.variance for h in known):.0f}",
        f"{mean(h.rank for h in known):.0f}",
        f"{sum(h.warned for h in known)} of {len(known)}",
    ]


def plot(path: Path, found: Mapping[Row, Scores]) -> None:
    """A dot a seed and a bar at their mean, a panel a sense."""
    from matplotlib.figure import Figure

    senses = list(dict.fromkeys(row.sense for row, runs in found.items() if runs))
    labels = list(dict.fromkeys(row.label for row, runs in found.items() if runs))
    size = (2.2 + 2.4 * len(senses), 1.2 + 0.34 * len(labels))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(senses), sharey=True, squeeze=False)[0]
    for panel, sense in zip(panels, senses, strict=True):
        for row, runs in found.items():
            if row.sense != sense or not runs:
                continue
            values = [right["all"] for right in runs.values()]
            at = labels.index(row.label)
            panel.plot(values, [at] * len(values), "o", color="tab:blue", alpha=0.6)
            panel.plot([mean(values)] * 2, [at - 0.3, at + 0.3], color="black")
        panel.set_title(SENSES[sense].title, fontsize=10)
        panel.set_yticks(range(len(labels)), labels, fontsize=8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_xlabel("right answers, %", fontsize=8)
    panels[0].invert_yaxis()
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _confusion(place: Place, seeds: Sequence[int]) -> str:
    """Whether the report warned of alignments whose tokens were of no use."""
    kinds = ("of no use", "no better than unaligned", "better")
    counts = {(kind, warned): 0 for kind in kinds for warned in (True, False)}
    for tuning in _aligned(seeds):
        sense = tuning.sense
        found, right = health(tuning.alignments[0], place), score(tuning, place, sense)
        without, unaligned = (
            plain(sense, [tuning.seed], "", method).tunings[0] for method in ("lora-only", "raw")
        )
        blind, raw = score(without, place, sense), score(unaligned, place, sense)
        if not (right and found and blind and raw):
            continue
        kind = "better" if right["all"] > raw["all"] else "no better than unaligned"
        if right["all"] < blind["all"] + _margin(without, place):
            kind = "of no use"
        counts[kind, found.warned] += 1
    text = [
        "## Does the report warn of collapsed tokens?\n",
        "Of no use: no more right answers than without the sense, by two standard errors of the "
        "difference.\n",
        "| aligned tokens | warned | not warned |",
        "|---|---|---|",
        *(f"| {kind} | {counts[kind, True]} | {counts[kind, False]} |" for kind in kinds),
    ]
    return "\n".join(text) + "\n"


def _margin(tuning: Tuning, place: Place) -> float:
    """Two standard errors, in points, of the difference of two runs that answer as well as this."""
    figures = json.loads(tuning.result(place).read_text())
    right, asked = figures[_SCORE], figures["music_avqa/n_total"]
    return 2 * math.sqrt(2 * right * (100 - right) / asked)


def _aligned(seeds: Sequence[int]) -> list[Tuning]:
    tunings = (t for rows in TABLES.values() for row in rows(seeds) for t in row.tunings)
    return [tuning for tuning in dict.fromkeys(tunings) if _only(tuning) and tuning.share == 1]
