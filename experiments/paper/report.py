"""What the study's runs say: results.csv with a line a score, and RESULTS.md drawn from it.

A line has the names of its runs and the commit that made it. Lines of runs that are no longer there
stay as they are, so that a study may be spread over machines and times.
"""

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
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
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.progress import say

# Student's t for an interval of 95 %, by degrees of freedom.
_T95: Final = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
_SCORE: Final = "music_avqa/strict"
_RIGHT: Final = "accuracy all"
_KEY: Final = """Of an alignment the tables say, on held-out frames: L_attn as the mean over layers,
L_stat, the variance between samples and the effective rank of the tokens in percent of RGB video's,
and of how many alignments the report warned. Parameters are those of both stages. "The paper's" are
its figures on the benchmark named, whatever the sense.
"""
Figures = dict[str, Any]
"""Of a run's answers to the questions for one sense: columns of results.csv."""
Results = dict[tuple[str, str], Figures]
"""(name of the run, sense) → its figures."""


@cache
def _read(path: Path) -> dict[str, Any]:
    """A result, which a run writes last and never again."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def health(alignment: Alignment, place: Place) -> Figures:
    """What the report of an alignment says of its tokens on held-out frames."""
    report = _read(alignment.result(place))
    video, after = report["video"], report["after"]
    # By today's rule, which a run may be older than.
    gaps = {when: SimpleNamespace(**report[when]) for when in ("video", "before", "after")}
    found = {
        "attn": mean(after["attention_per_layer"]),
        "video_attn": mean(video["attention_per_layer"]),
        "attn_before": mean(report["before"]["attention_per_layer"]),
        "stat": after["stat"],
        "variance": 100 * after["sample_variance"] / video["sample_variance"],  # % of RGB video's
        "rank": 100 * after["effective_rank"] / video["effective_rank"],
        "warned": bool(health_warnings(gaps, AlignmentReport().healthy_share, "")),
    }
    return {name: round(value, 4) for name, value in found.items()}


def figures(tuning: Tuning, sense: str, place: Place) -> Figures:
    """What the files of a run say; nothing of one that has not finished, or lacks an alignment."""
    if not all(run.result(place).exists() for run in (tuning, *tuning.alignments)):
        return {}
    scores = _read(tuning.result(place))
    right = f"{_SCORE}/modality/{SENSES[sense].world}"
    kinds = {"all": scores[right]} | {
        name.removeprefix(f"{right}/"): value
        for name, value in scores.items()
        if name.startswith(f"{right}/")
    }
    made_at = scores["provenance"]["git"] or {"commit": "", "dirty": False}
    found = {
        "trained": trained(tuning, place),
        "commit": made_at["commit"] + "+" * made_at["dirty"],  # and what was not committed
        "asked": int(scores["music_avqa/n_total"]),  # questions for all senses
    }
    found |= {f"accuracy {kind}": round(value, 2) for kind, value in kinds.items()}
    if tuning.alignments:
        found["alignment"] = " ".join(alignment.name for alignment in tuning.alignments)
    only = _only(tuning)
    return found | (health(only, place) if only else {})


_PLACE: Final = ("table", "sense", "row", "seed", "run")  # of a score; the rest are its figures


def kept(path: Path) -> list[Figures]:
    """The lines of a results.csv, if there is one."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [{name: _number(text) for name, text in line.items() if text} for line in lines]


def _number(text: str) -> float | str:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


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
    quantile = _T95.get(len(values) - 1, 2.23)  # a little too wide for more seeds than that
    return mean(values), quantile * stdev(values) / math.sqrt(len(values))


def write_report(out: Path, place: Place, seeds: Sequence[int]) -> None:
    """Write the report of all runs that have finished, here or in the results.csv of ``out``.

    Tables hardly begun are left out of RESULTS.md.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary = out / "summary.md"
    parts = [summary.read_text(), _KEY] if summary.exists() else [_KEY]
    before = kept(out / "results.csv")
    seeds = sorted({*seeds, *(line["seed"] for line in before)})
    tables = {name: rows_of(seeds) for name, rows_of in TABLES.items()}
    wanted = {(t, row.sense) for rows in tables.values() for row in rows for t in row.tunings}
    here = {(t.name, sense): found for t, sense in wanted if (found := figures(t, sense, place))}
    results = {
        (line["run"], line["sense"]): {name: line[name] for name in line if name not in _PLACE}
        for line in before
    }
    if gone := results.keys() - here.keys():
        say(f"{len(gone)} scores stay as results.csv has them: {place.runs} hasn't got their runs")
    results |= here
    lines: list[Figures] = []
    for name, rows in tables.items():
        found = {row: _of(row, results) for row in rows}
        lines += [
            {"table": name, "sense": row.sense, "row": row.label, "seed": t.seed, "run": t.name}
            | of
            for row, runs in found.items()
            for t, of in runs.items()
        ]
        if 2 * sum(map(bool, found.values())) > len(rows):  # begun in earnest
            plot(out / f"{name}.png", found)
            parts += [_table(name, TABLES[name].__doc__ or "", found), f"![{name}]({name}.png)\n"]
    written = {(line["run"], line["sense"]) for line in lines}
    lines += [line for line in before if (line["run"], line["sense"]) not in written]  # old rows
    parts.append(_confusion(results, {tuning for tuning, _ in wanted}))
    with atomic_file(out / "RESULTS.md") as unfinished:
        unfinished.write_text("\n".join(parts))
    write_csv(out / "results.csv", lines)


def _of(row: Row, results: Results) -> dict[Tuning, Figures]:
    """The figures of a row's runs, of those that have any."""
    found = {tuning: results.get((tuning.name, row.sense), {}) for tuning in row.tunings}
    return {tuning: of for tuning, of in found.items() if of}


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns that any of them has."""
    with atomic_file(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)


def _only(tuning: Tuning) -> Alignment | None:
    """Its alignment, where it is of one sense alone."""
    own = [alignment for alignment in tuning.alignments if alignment.sense == tuning.sense]
    return own[0] if own else None


def _table(name: str, title: str, found: Mapping[Row, Mapping[Tuning, Figures]]) -> str:
    aligned = any("attn" in of for runs in found.values() for of in runs.values())
    columns = ["sense", "", "right answers, %", "seeds", "parameters trained"]
    columns += ["L_attn", "L_stat", "variance", "effective rank", "warned"] if aligned else []
    published = PUBLISHED.get(name, {})
    columns += ["the paper's"] if published else []
    text = [f"## {title.rstrip('.')}\n", " | ".join(["", *columns, ""]).strip()]
    text.append("|" + "---|" * len(columns))
    for row, runs in found.items():
        if not runs:
            continue
        every = list(runs.values())
        middle, half = interval([of[_RIGHT] for of in every])
        cells = [SENSES[row.sense].title, row.label]
        cells.append(f"{middle:.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}"))
        cells += [str(len(every)), f"{every[0]['trained']:,}"]
        cells += _health_cells(every) if aligned else []
        cells += [published.get((row.sense, row.label), "")] if published else []
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _health_cells(runs: Sequence[Figures]) -> list[str]:
    known = [of for of in runs if "attn" in of]
    if not known:
        return [""] * 5
    return [
        *(
            f"{mean(of[name] for of in known):.{digits}f}"
            for name, digits in (("attn", 3), ("stat", 1), ("variance", 0), ("rank", 0))
        ),
        f"{sum(of['warned'] for of in known)} of {len(known)}",
    ]


def plot(path: Path, found: Mapping[Row, Mapping[Tuning, Figures]]) -> None:
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
            values = [of[_RIGHT] for of in runs.values()]
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


def _confusion(results: Results, tunings: Collection[Tuning]) -> str:
    """Whether the report warned of alignments whose tokens were of no use."""
    kinds = ("of no use", "no better than unaligned", "better")
    counts = {(kind, warned): 0 for kind in kinds for warned in (True, False)}
    for tuning in (each for each in tunings if _only(each) and each.share == 1):
        sense = tuning.sense
        without, unaligned = (
            plain(sense, [tuning.seed], "", method).tunings[0] for method in ("lora-only", "raw")
        )
        runs = [results.get((each.name, sense), {}) for each in (tuning, without, unaligned)]
        if not all(runs):
            continue
        of, blind, raw = runs
        kind = "better" if of[_RIGHT] > raw[_RIGHT] else "no better than unaligned"
        if of[_RIGHT] < blind[_RIGHT] + _margin(blind):
            kind = "of no use"
        counts[kind, bool(of["warned"])] += 1
    text = [
        "## Does the report warn of collapsed tokens?\n",
        "Of no use: no more right answers than without the sense, by two standard errors of the "
        "difference.\n",
        "| aligned tokens | warned | not warned |",
        "|---|---|---|",
        *(f"| {kind} | {counts[kind, True]} | {counts[kind, False]} |" for kind in kinds),
    ]
    return "\n".join(text) + "\n"


def _margin(run: Figures) -> float:
    """Two standard errors, in points, of the difference of two runs that answer as well as this."""
    right = run[_RIGHT]
    return 2 * math.sqrt(2 * right * (100 - right) / run["asked"])
