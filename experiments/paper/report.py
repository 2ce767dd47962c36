"""Writes the scores of the study's runs to results.csv, and RESULTS.md from that.

A line of results.csv names its runs and the commit that made it. Lines whose runs no longer exist
are kept, so that a study can be spread over machines and times.
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
from experiments.paper.study import MODALITIES, AlignmentRun, Study, TuningRun
from experiments.paper.tables import TABLES, Row, plain
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.progress import say
from vlynx_pl.stream_reduction import USUAL

# Student's t for a 95 % interval, by degrees of freedom.
_T95: Final = {2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
_SCORE: Final = "music_avqa/strict"
_RIGHT: Final = "accuracy all"
_KEY: Final = """For alignments the tables give, on held-out frames: L_attn as the mean over layers,
L_stat, the variance between samples and the effective rank of the tokens in percent of those of RGB
video, and for how many alignments the report warned. Parameters are those of both stages. "The
paper's" are its figures on the benchmark named.
"""
Scores = dict[str, Any]
"""Columns of results.csv: scores of a run on the questions about one modality."""
Results = dict[tuple[str, str], Scores]
"""(name of the run, modality) → scores."""


@cache
def _read(path: Path) -> dict[str, Any]:
    """Read a result, which a run writes once, when it finishes."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def health(alignment: AlignmentRun, study: Study) -> Scores:
    """Return what the report of an alignment says about its tokens on held-out frames."""
    report = _read(alignment.result(study))
    video, after = report["video"], report["after"]
    # By the present rule, which may be newer than the run.
    gaps = {when: SimpleNamespace(**report[when]) for when in ("video", "before", "after")}
    found = {
        "attn": mean(after["attention_per_layer"]),
        "video_attn": mean(video["attention_per_layer"]),
        "attn_before": mean(report["before"]["attention_per_layer"]),
        "stat": after["stat"],
        "variance": 100 * after["sample_variance"] / video["sample_variance"],
        "rank": 100 * after["effective_rank"] / video["effective_rank"],
        "warned": bool(health_warnings(gaps, AlignmentReport().healthy_share, "")),
    }
    return {name: round(value, 4) for name, value in found.items()}


def scores_of(tuning: TuningRun, modality: str, study: Study) -> Scores:
    """Return the scores of a run; none if it has not finished or lacks an alignment."""
    if not all(run.result(study).exists() for run in (tuning, *tuning.alignments)):
        return {}
    scores = _read(tuning.result(study))
    [about] = MODALITIES[modality].questions
    right = f"{_SCORE}/modality/{about}"
    kinds = {"all": scores[right]} | {
        name.removeprefix(f"{right}/"): value
        for name, value in scores.items()
        if name.startswith(f"{right}/")
    }
    made_at = scores["provenance"]["git"] or {"commit": "", "dirty": False}
    found = {
        "trained": trained(tuning, study),
        "commit": made_at["commit"] + "+" * made_at["dirty"],  # + marks uncommitted changes
        "asked": int(scores["music_avqa/n_total"]),  # questions about all modalities
    }
    found |= {f"accuracy {kind}": round(value, 2) for kind, value in kinds.items()}
    if tuning.alignments:
        found["alignment"] = " ".join(alignment.name for alignment in tuning.alignments)
    only = _only(tuning)
    return found | (health(only, study) if only else {})


_KEYS: Final = ("table", "modality", "row", "seed", "run")  # columns that are not scores


def read_csv(path: Path) -> list[Scores]:
    """Return the lines of a results.csv, none if it does not exist."""
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


def trained(tuning: TuningRun, study: Study) -> int:
    """Return the number of parameters that were trained for a run, in both stages."""
    folders = [study.runs / tuning.adapters / "adapters"]
    folders += [alignment.adapter(study) for alignment in tuning.alignments]
    count = 0
    found = (file for folder in folders for file in folder.rglob("*.safetensors"))
    for file in (file for file in found if file.name != USUAL):  # which is measured
        with safe_open(file, "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        count += sum(math.prod(shape) for shape in shapes)
    return count


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval, NaN for fewer than three seeds."""
    if len(values) < 3:
        return mean(values), math.nan
    quantile = _T95.get(len(values) - 1, 2.23)  # slightly too wide for more seeds
    return mean(values), quantile * stdev(values) / math.sqrt(len(values))


def write_report(out: Path, study: Study, seeds: Sequence[int]) -> None:
    """Write the report of all runs that have finished, here or in the results.csv of ``out``.

    RESULTS.md leaves out tables of which less than half has run.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary = out / "summary.md"
    parts = [summary.read_text(), _KEY] if summary.exists() else [_KEY]
    before = read_csv(out / "results.csv")
    seeds = sorted({*seeds, *(line["seed"] for line in before)})
    tables = {name: rows_of(seeds) for name, rows_of in TABLES.items()}
    wanted = {(t, row.modality) for rows in tables.values() for row in rows for t in row.tunings}
    here = {(t.name, name): found for t, name in wanted if (found := scores_of(t, name, study))}
    results = {
        (line["run"], line["modality"]): {name: line[name] for name in line if name not in _KEYS}
        for line in before
    }
    if gone := results.keys() - here.keys():
        say(f"{len(gone)} scores of results.csv are kept: {study.runs} lacks their runs")
    results |= here
    lines: list[Scores] = []
    for name, rows in tables.items():
        found = {row: _of(row, results) for row in rows}
        lines += [
            dict(zip(_KEYS, (name, row.modality, row.label, t.seed, t.name), strict=True)) | of
            for row, runs in found.items()
            for t, of in runs.items()
        ]
        if 2 * sum(map(bool, found.values())) > len(rows):
            plot(out / f"{name}.png", found)
            parts += [_table(name, TABLES[name].__doc__ or "", found), f"![{name}]({name}.png)\n"]
    written = {(line["run"], line["modality"]) for line in lines}
    lines += [line for line in before if (line["run"], line["modality"]) not in written]  # old rows
    parts.append(_confusion(results, {tuning for tuning, _ in wanted}))
    with atomic_file(out / "RESULTS.md") as unfinished:
        unfinished.write_text("\n".join(parts))
    write_csv(out / "results.csv", lines)


def _of(row: Row, results: Results) -> dict[TuningRun, Scores]:
    """Return the scores of the runs of a row that have any."""
    found = {tuning: results.get((tuning.name, row.modality), {}) for tuning in row.tunings}
    return {tuning: of for tuning, of in found.items() if of}


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the columns that any of them has."""
    with atomic_file(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)


def _only(tuning: TuningRun) -> AlignmentRun | None:
    """Return the alignment of a tuning of one modality, if it has one."""
    return next((a for a in tuning.alignments if a.modality == tuning.modality), None)


def _table(name: str, title: str, found: Mapping[Row, Mapping[TuningRun, Scores]]) -> str:
    aligned = any("attn" in of for runs in found.values() for of in runs.values())
    columns = ["modality", "", "right answers, %", "seeds", "parameters trained"]
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
        cells = [MODALITIES[row.modality].title, row.label]
        cells.append(f"{middle:.1f}" + ("" if math.isnan(half) else f" ± {half:.1f}"))
        cells += [str(len(every)), f"{every[0]['trained']:,}"]
        cells += _health_cells(every) if aligned else []
        cells += [published.get((row.modality, row.label), "")] if published else []
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _health_cells(runs: Sequence[Scores]) -> list[str]:
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


def plot(path: Path, found: Mapping[Row, Mapping[TuningRun, Scores]]) -> None:
    """Draw a dot per seed and a bar at their mean, in one panel per modality."""
    from matplotlib.figure import Figure

    modalities = list(dict.fromkeys(row.modality for row, runs in found.items() if runs))
    labels = list(dict.fromkeys(row.label for row, runs in found.items() if runs))
    size = (2.2 + 2.4 * len(modalities), 1.2 + 0.34 * len(labels))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(modalities), sharey=True, squeeze=False)[0]
    for panel, modality in zip(panels, modalities, strict=True):
        for row, runs in found.items():
            if row.modality != modality or not runs:
                continue
            values = [of[_RIGHT] for of in runs.values()]
            at = labels.index(row.label)
            panel.plot(values, [at] * len(values), "o", color="tab:blue", alpha=0.6)
            panel.plot([mean(values)] * 2, [at - 0.3, at + 0.3], color="black")
        panel.set_title(MODALITIES[modality].title, fontsize=10)
        panel.set_yticks(range(len(labels)), labels, fontsize=8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_xlabel("right answers, %", fontsize=8)
    panels[0].invert_yaxis()
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _confusion(results: Results, tunings: Collection[TuningRun]) -> str:
    """Count for how many alignments of no use the report warned."""
    kinds = ("of no use", "no better than unaligned", "better")
    counts = {(kind, warned): 0 for kind in kinds for warned in (True, False)}
    for tuning in (each for each in tunings if _only(each) and each.share == 1 and not each.label):
        modality = tuning.modality
        without, unaligned = (
            plain(modality, [tuning.seed], "", method).tunings[0] for method in ("lora-only", "raw")
        )
        runs = [results.get((each.name, modality), {}) for each in (tuning, without, unaligned)]
        if not all(runs):
            continue
        of, blind, raw = runs
        kind = "better" if of[_RIGHT] > raw[_RIGHT] else "no better than unaligned"
        if of[_RIGHT] < blind[_RIGHT] + _margin(blind):
            kind = "of no use"
        counts[kind, bool(of["warned"])] += 1
    text = [
        "## Does the report warn of collapsed tokens?\n",
        "Of no use: not more right answers than without the modality, by two standard errors of "
        "the difference.\n",
        "| aligned tokens | warned | not warned |",
        "|---|---|---|",
        *(f"| {kind} | {counts[kind, True]} | {counts[kind, False]} |" for kind in kinds),
    ]
    return "\n".join(text) + "\n"


def _margin(run: Scores) -> float:
    """Return two standard errors of the difference of two runs like this one, in points."""
    right = run[_RIGHT]
    return 2 * math.sqrt(2 * right * (100 - right) / run["asked"])
