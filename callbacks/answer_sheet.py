"""The sheet of a run's worst and best answers, each beside frames of its clip."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from string import ascii_uppercase
from textwrap import wrap
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vlynx_pl.io.files import atomic_file, readable
from vlynx_pl.metrics import Answered

_COLOURS: Final = {"worst": "tab:red", "best": "tab:green"}
_WIDTH, _ROW, _HEAD = 16.0, 1.7, 0.9  # inches
_FRAMES: Final = 4  # shown of each stream, at most
_LETTERS: Final = 88  # in a line of text


class ScoredAnswer(NamedTuple):
    """An answer and its own score."""

    answer: Answered
    score: float


def select_extremes(
    answered: Sequence[Answered], scores: Sequence[float], count: int
) -> tuple[list[ScoredAnswer], list[ScoredAnswer]]:
    """Select the worst and the best answers, most extreme first, without overlap.

    Failed questions count as the worst. They take at most half of the places while there are other
    answers, and are never among the best. Equal scores are shuffled in the same way every time,
    whatever the order of ``answered``, so that they come from various clips.

    Args:
        answered: each question once.
        scores: one per question; higher is better.
        count: how many of the worst and how many of the best; half of the answers if there are
            fewer than twice as many.
    """
    scored = [ScoredAnswer(*pair) for pair in zip(answered, scores, strict=True)]
    scored.sort(key=lambda one: hashlib.sha256(ascii(one.answer.id).encode()).digest())
    spoken = sorted((one for one in scored if not one.answer.failed), key=attrgetter("score"))
    failed = [one for one in scored if one.answer.failed]
    best = spoken[::-1][: min(count, len(spoken) // 2)]
    worst = spoken[: len(spoken) - len(best)][:count]
    return (failed[: max(count // 2, count - len(worst))] + worst)[:count], best


def draw_answers(
    worst: Sequence[ScoredAnswer],
    best: Sequence[ScoredAnswer],
    episodes: Mapping[str, Mapping[str, Any]],
    title: str,
    path: Path,
    again: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Draw one row per answer into a PNG: the texts, then a strip of frames per stream.

    Args:
        worst: as returned by ``select_extremes``; one answer or more.
        best: as returned by ``select_extremes``.
        episodes: clip → ``streams``, uint8 (T, 3, H, W) by name, and their ``times`` in s. A clip
            that is missing here gets the note "no media".
        title: the first line or lines of the sheet.
        path: file to write.
        again: id of a question → way → the answer in that way, shown below the first.
    """
    rows = [("worst", one) for one in worst] + [("best", one) for one in best]
    strips = max((len(episode["streams"]) for episode in episodes.values()), default=1)
    height = _HEAD + _ROW * len(rows)
    figure = Figure(figsize=(_WIDTH, height))
    figure.suptitle(_drawable(title), x=0.02, y=1 - 0.2 / height, ha="left", parse_math=False)
    ratios = {"width_ratios": [strips, *[1] * strips]}  # half of the width is text
    grid = figure.subplots(len(rows), 1 + strips, squeeze=False, gridspec_kw=ratios)
    figure.subplots_adjust(0.02, 0.1 / height, 0.98, 1 - _HEAD / height, wspace=0.03, hspace=0.25)
    for (block, one), (text, *others) in zip(rows, grid, strict=True):
        for axes in (text, *others):
            axes.axis("off")
        _draw_texts(text, block, one, again.get(one.answer.id, {}))
        episode = episodes.get(one.answer.clip)
        if episode is None:
            others[0].text(0.5, 0.5, "no media", ha="center", color="0.5")
            continue
        for axes, (name, frames) in zip(others, episode["streams"].items(), strict=False):
            _draw_strip(axes, name, frames, episode["times"][name])
    with atomic_file(path) as unfinished, warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, which cannot be helped.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(unfinished, dpi=100, format="png")


def _draw_texts(axes: Axes, block: str, one: ScoredAnswer, again: Mapping[str, str]) -> None:
    """Draw the score and the clip, and what was asked, answered and expected."""
    answer = one.answer
    title = _drawable(f"{block} {one.score:.1f} · {answer.clip} · {answer.id}")[:_LETTERS]
    axes.set_title(title, fontsize=9, loc="left", color=_COLOURS[block], parse_math=False)
    references = (_with_option(text, answer.options) for text in answer.references)
    ways = (f"{way}: {_with_option(said, answer.options)}" for way, said in again.items())
    lines: list[str] = []
    for text, most in (
        (answer.question, 3 if again else 4),
        (f"answer: {_with_option(answer.text, answer.options) or '(none)'}", 2),
        (f"reference: {' | '.join(references)}", 1 if again else 2),
        (" | ".join(ways), 2),
    ):
        lines += wrap(" ".join(text.split()), _LETTERS, max_lines=most, placeholder=" …")
    text = _drawable("\n".join(lines))
    axes.text(0, 1, text, va="top", fontsize=9, clip_on=True, parse_math=False)


def _draw_strip(axes: Axes, name: str, frames: Tensor, times: Sequence[float]) -> None:
    """Draw evenly spaced frames of a stream side by side, below its name and their timestamps."""
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().astype(int)
    images = frames[chosen].permute(0, 2, 3, 1).cpu().numpy()  # (F, H, W, 3)
    gap = 1 + images.shape[2] // 32
    padded = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    axes.imshow(np.hstack(list(padded)))
    axes.set_anchor("NW")
    # A timestamp may have several frames.
    clock = ", ".join(f"{times[i * len(times) // len(frames)]:.2f}" for i in chosen)
    axes.set_title(_drawable(f"{name} at {clock} s"), fontsize=8, loc="left", parse_math=False)


def _drawable(text: str) -> str:
    """Replace what no font can draw, such as control characters."""
    letters = readable(text)
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in letters
    )


def _with_option(text: str, options: Sequence[str]) -> str:
    """Add the option that a letter stands for, as in ``B. a dog``."""
    named = dict(zip(ascii_uppercase, options, strict=False))
    letter = text.strip().rstrip(".")
    return f"{letter}. {named[letter]}" if letter in named else text.strip()
