"""``vlynx analyse attention``: where a tuned run looks when it reads questions (Figure 4)."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.modalities.depth import Depth
from datamodules.samples import Episode
from vlynx_pl.analysis.attention_figure import MapRow, draw_attention
from vlynx_pl.analysis.attention_maps import REGIONS, coverage, find_word, lift, llm_layers
from vlynx_pl.commands.analyse.tuned_run import Looked, TunedRun
from vlynx_pl.commands.analyse.writing import number, write_results
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.markdown import table
from vlynx_pl.io.progress import track
from vlynx_pl.questions import Question

_TUNED: Final = "as tuned"
_BASE: Final = "base encoder"
_SAME_CAMERA: Final = ("video", Depth.name)  # streams that show what the instance labels show
_ROWS: Final = {"last": "the last token", "words": "the question's words"}
_READING = """\
A share is the part of all attention of the question that goes to a stream or a text, as a mean over
heads. Text before the question often takes much of it, whatever it says. The maps in the pictures
are divided by those of a neutral question on the same clip."""
_LIFT_READING = """\
*Lift* is the share of a stream's attention on a part of its frames, divided by the part's share of
the frames: 1 is no preference. *Named* means the objects that the question is about. If *others* is
as high, attention finds objects, and not the one that was asked about. Questions that name all
objects or none are left out."""


class Observed(NamedTuple):
    """A question, its clip, and where the LLM looks."""

    clip: str
    question: Question
    frames: dict[str, Tensor]  # stream → uint8 (T, 3, H, W), the first of each timestamp
    times: dict[str, Sequence[float]]
    labels: Tensor | None  # (T, H, W) instance labels
    ways: dict[str, Looked]  # way of reading the modalities → what it leads to


def analyse_attention(
    run: Path, out: Path, questions: int, against: Path | None, layers: Sequence[int], rows: str
) -> None:
    """Write ``attention.json``, ``.md`` and a picture per question, and print the tables.

    Args:
        run: folder of a tuned run.
        out: folder of the results.
        questions: of the split that the run is tested on.
        against: folder of another tuned run that is tested on the same clips.
        layers: of the LLM, counted from 1, that are drawn.
        rows: see :func:`vlynx_pl.analysis.attention_maps.question_attention`.

    Raises:
        UserError: a run cannot be used, or the two do not read the same clips; there is no such
            layer, or no question has the word.
    """
    observed, grid = _observe(run, questions, layers, rows)
    if against is not None:  # after the first run, whose memory it may need
        _observe_with(against, observed, rows)
    pictures = {
        f"attention-{place}": _picture(one, layers, rows, grid)
        for place, one in enumerate(observed, 1)
    }
    figures = [_figures(one, grid) for one in observed]
    found = {"run": str(run), "rows": rows, "layers_drawn": [*layers], "questions": figures}
    text = _text(f"Attention of {_ROWS.get(rows, rows)}, {len(observed)} questions.", figures)
    write_results(out, "attention", found, text, pictures)


def parse_layers(text: str) -> list[int]:
    """Parse ``1,2``; raise UserError for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--layers {text}: give numbers of layers, such as 1,2") from None


def choose(episodes: Iterable[Episode], count: int, rows: str) -> list[tuple[Episode, Question]]:
    """Choose questions by a hash of their ids, of as many clips as possible.

    Args:
        episodes: with their questions.
        count: how many; all that fit if there are fewer.
        rows: as for :func:`analyse_attention`; a word must be in the question.

    Raises:
        UserError: no question has the word.
    """
    ordered = []
    for episode in episodes:
        fitting = [
            (hashlib.sha256(ascii(one.id).encode()).hexdigest(), one)
            for one in episode.questions
            if rows in {"last", "words"} or find_word(one.prompt, rows)
        ]
        fitting.sort(key=lambda one: one[0])
        ordered += [(turn, digest, episode, one) for turn, (digest, one) in enumerate(fitting)]
    if not ordered:
        raise UserError(f"--rows {rows}: no question has this word; give last, words or another")
    ordered.sort(key=lambda one: one[:2])
    return [(episode, question) for _, _, episode, question in ordered[:count]]


def _observe(
    run: Path, count: int, layers: Sequence[int], rows: str
) -> tuple[list[Observed], tuple[int, int]]:
    """Ask questions of a run; also return the grid of a frame's tokens."""
    tuned = TunedRun(run)
    llm_layers(tuned.backbone, layers)
    ways = {_TUNED: tuned.streams}
    if (unaligned := tuned.unaligned()) is not None:
        ways[_BASE] = unaligned
    observed = []
    for episode, question in track(choose(tuned.episodes.values(), count, rows), "Looking"):
        read, labels = tuned.read(episode.name)
        times = read["times"]
        frames = {
            name: pixels[:: len(pixels) // len(times[name])].cpu()
            for name, pixels in read["streams"].items()
        }
        looked = {way: tuned.look(how, read, question, rows) for way, how in ways.items()}
        observed.append(Observed(episode.name, question, frames, times, labels, looked))
    return observed, tuned.backbone.token_grid


def _observe_with(run: Path, observed: Sequence[Observed], rows: str) -> None:
    """Ask the same questions of another run."""
    tuned = TunedRun(run)
    for one in track(observed, f"Looking with {run}"):
        read, _ = tuned.read(one.clip)
        if any(read["times"].get(name, times) != times for name, times in one.times.items()):
            raise UserError(
                f"{run} reads other frames of {one.clip}; give a run with the same data.frames"
            )
        one.ways[str(run)] = tuned.look(tuned.streams, read, one.question, rows)


def _picture(one: Observed, layers: Sequence[int], rows: str, grid: tuple[int, int]) -> Figure:
    answers = "; ".join(f"{way}: {looked.answer}" for way, looked in one.ways.items())
    title = [
        one.question.prompt,
        f"{answers}; reference: {' | '.join(one.question.answers) or '–'}",
        f"{one.clip}, attention of {_ROWS.get(rows, rows)}, divided by that of a neutral question",
    ]
    drawn = [
        MapRow(
            f"layer {layer}, {way}",
            {name: float(share[layer - 1]) for name, share in looked.shares().items()},
            {name: found[layer - 1] for name, found in looked.relative().items()},
        )
        for layer in layers
        for way, looked in one.ways.items()
    ]
    streams = {name: (frames, one.times[name]) for name, frames in one.frames.items()}
    return draw_attention(title, streams, drawn, grid)


def _figures(one: Observed, grid: tuple[int, int]) -> dict[str, Any]:
    """All figures of a question as plain data; lists have a value per layer."""
    parts = None
    if one.labels is not None:
        parts = coverage(one.labels, one.question.objects, grid)
    return {
        "id": one.question.id,
        "clip": one.clip,
        "question": one.question.prompt,
        "references": one.question.answers,
        "ways": {
            way: {
                "answer": looked.answer,
                "shares": {name: share.tolist() for name, share in looked.shares().items()},
                "lift": {} if parts is None else _lifts(looked, parts, math.prod(grid)),
            }
            for way, looked in one.ways.items()
        },
    }


def _lifts(looked: Looked, parts: Tensor, tokens: int) -> dict[str, dict[str, list[float]]]:
    """Stream → region → lift per layer; empty if there is nothing to compare with."""
    if not all(part.any() for part in parts[:2]):
        return {}
    return {
        name: {
            region: lift(found, part).tolist() for region, part in zip(REGIONS, parts, strict=True)
        }
        for name, found in zip(looked.names, looked.found.maps, strict=True)
        if name in _SAME_CAMERA and found.shape[-1] == tokens  # not pooled
    }


def _text(head: str, questions: Sequence[dict[str, Any]]) -> str:
    """The tables in Markdown: means over questions."""
    parts = ["## Attention of questions", head]
    for way in questions[0]["ways"]:
        each = [one["ways"][way] for one in questions]
        shares = _mean([one["shares"] for one in each])
        lines = zip(*shares.values(), strict=True)
        rows = [[str(layer), *(f"{x:.1%}" for x in line)] for layer, line in enumerate(lines, 1)]
        parts += [f"### Shares, {way}", table(["layer", *shares], rows)]
    parts.append(_READING)
    for way in questions[0]["ways"]:
        lifts = [one["ways"][way]["lift"] for one in questions if one["ways"][way]["lift"]]
        if not lifts:
            continue
        means = {name: _mean([one[name] for one in lifts]) for name in lifts[0]}
        header = [f"{name}: {region}" for name, mean in means.items() for region in mean]
        lines = zip(*(v for mean in means.values() for v in mean.values()), strict=True)
        rows = [[str(layer), *map(number, line)] for layer, line in enumerate(lines, 1)]
        parts += [f"### Lift, {way}, {len(lifts)} questions", table(["layer", *header], rows)]
    if any(one["ways"][_TUNED]["lift"] for one in questions):
        parts.append(_LIFT_READING)
    return "\n\n".join(parts)


def _mean(each: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Mean of each list over questions."""
    return {name: torch.tensor([one[name] for one in each]).mean(0).tolist() for name in each[0]}
