"""The sheet of a run's worst and best answers, each with frames of what it is about."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from textwrap import wrap
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vlynx_pl.io.files import atomic_file, readable
from vlynx_pl.metrics import Answered

# All lengths are pixels of the sheet, from its upper left corner.
_DPI: Final = 100
_WIDTH: Final = 1600
_MARGIN: Final = 32
_HEAD: Final = 92  # title and subtitle
_HEADING: Final = 56  # of a block
_FRAME: Final = 108  # longer side of a frame
_FRAMES: Final = 4  # of a stream, at most
_STRIP: Final = _FRAMES * (_FRAME + 4) + 12  # frames of a stream
_STRIPS: Final = 2  # side by side
_STREAMS: Final = _WIDTH - _MARGIN - _STRIPS * _STRIP  # where the frames begin
_STRIP_LINE: Final = _FRAME + 40  # with the stream's name above and the times below
_FIGURE: Final = _MARGIN + 76  # where the figure ends
_TEXT: Final = _FIGURE + 18  # where the question begins
_LINE: Final = 16  # from one line of text to the next
_COLOURS: Final = {"worst": "tab:red", "best": "tab:green"}


class ScoredAnswer(NamedTuple):
    """An answer with its own figure."""

    answer: Answered
    figure: float


def select_extremes(
    answered: Sequence[Answered], figures: Sequence[float], count: int
) -> tuple[list[ScoredAnswer], list[ScoredAnswer]]:
    """The worst and the best answers, the most extreme first, none of them twice.

    Failed questions are the worst, but take half the places at most while there are other answers,
    as there is little to see in them; they are never among the best. Of answers with equal figures
    those come first whose clip, and then whose question, was shown least. The order of ``answered``
    makes no difference.

    Args:
        answered: each question once.
        figures: one for each, more is better.
        count: of the worst and of the best; where there are fewer than twice as many, half.
    """
    judged = [ScoredAnswer(*pair) for pair in zip(answered, figures, strict=True)]
    said = [one for one in judged if not one.answer.failed]
    best = _varied(said, min(count, len(said) // 2), -1)
    worst = _varied([one for one in said if one not in best], count)
    failed = _varied([one for one in judged if one.answer.failed], count)
    return (failed[: max(count // 2, count - len(worst))] + worst)[:count], best


def _varied(judged: Iterable[ScoredAnswer], count: int, sign: int = 1) -> list[ScoredAnswer]:
    """The lowest by ``sign`` × figure; of equal ones what was shown least."""
    # The last resort is a hash, since ids in their order would favour the first kind of question.
    left = sorted(judged, key=lambda one: hashlib.sha256(ascii(one.answer.id).encode()).digest())
    chosen: list[ScoredAnswer] = []
    clips, questions = Counter[str](), Counter[str]()
    while left and len(chosen) < count:
        one = min(
            left,
            key=lambda one: (
                sign * one.figure,
                clips[one.answer.clip],
                questions[one.answer.question],
            ),
        )
        left.remove(one)
        chosen.append(one)
        clips[one.answer.clip] += 1
        questions[one.answer.question] += 1
    return chosen


def draw_answers(
    worst: Sequence[ScoredAnswer],
    best: Sequence[ScoredAnswer],
    episodes: Mapping[str, Mapping[str, Any]],
    title: str,
    subtitle: str,
    path: Path,
) -> None:
    """Draw a block of the worst and one of the best answers into a PNG, 1600 pixels wide.

    Args:
        worst: as ``select_extremes`` gives them.
        best: as ``select_extremes`` gives them.
        episodes: clip → ``streams``, uint8 (T, 3, H, W) by name, and their ``times`` in s; of a
            clip that is not in it, the sheet says that there is no media.
        title: the first line.
        subtitle: the second line.
        path: file to write.
    """
    lines = max((-(-len(e["streams"]) // _STRIPS) for e in episodes.values()), default=1)
    row = lines * _STRIP_LINE + 38
    blocks = {name: of for name, of in (("worst", worst), ("best", best)) if of}
    height = _HEAD + sum(_HEADING + len(of) * row for of in blocks.values()) + _MARGIN
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.axis("off")
    _write(sheet, _MARGIN, 44, title, fontsize=17, weight="bold")
    _write(sheet, _MARGIN, 70, subtitle, fontsize=10, color="0.35")
    top = _HEAD
    for name, judged in blocks.items():
        _box(sheet, _MARGIN, top, _HEADING - 20, _COLOURS[name])
        heading = f"{name.capitalize()} answers"
        _write(sheet, _MARGIN + 12, top + 24, heading, fontsize=12, color="white", weight="bold")
        top += _HEADING
        for one in judged:
            _draw_answer(sheet, top, one, _COLOURS[name])
            _draw_streams(sheet, top, episodes.get(one.answer.clip))
            top += row
            _box(sheet, _MARGIN, top - 14, 1, "0.88")
    sheet.set(xlim=(0, _WIDTH), ylim=(height, 0), aspect="auto")
    with atomic_file(path) as unfinished, warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; nothing to be done about it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(unfinished, dpi=_DPI, format="png")
        # 32 levels of each colour instead of 256 almost halve the file. A palette would be smaller
        # still, but spends its colours on walls, and questions are about what stands before them.
        drawn = Image.open(unfinished).convert("RGB")
        drawn.point(lambda level: level // 8 * 255 // 31).save(unfinished, format="png")


def _draw_answer(sheet: Axes, top: float, one: ScoredAnswer, colour: str) -> None:
    """The figure, and what was asked, said and wanted."""
    answer = one.answer
    _write(sheet, _FIGURE, top + 14, f"{one.figure:.1f}", fontsize=14, ha="right", color=colour)
    y = top + 12.0
    said = _spelt(answer.text, answer.options) or "(none)"
    wanted = " | ".join(_spelt(text, answer.options) for text in answer.references)
    # Texts with the most lines of each, and the width of an average letter.
    for label, text, most, letter, style in (
        ("", answer.question, 5, 7.9, {"weight": "bold"}),
        ("answer", said, 2, 7.2, {"color": colour}),
        ("reference", wanted, 2, 7.2, {}),
        ("clip", f"{answer.clip} · {answer.id}", 1, 7.2, {"color": "0.5"}),
    ):
        _write(sheet, _TEXT, y, label, color="0.5")
        x = _TEXT + (70 if label else 0)
        width = int((_STREAMS - x) / letter)
        flat = " ".join(text.split())
        for line in wrap(flat, width, max_lines=most, placeholder=" …") or [""]:
            _write(sheet, x, y, line, **style)
            y += _LINE
        y += 3


def _draw_streams(sheet: Axes, top: float, episode: Mapping[str, Any] | None) -> None:
    """A few frames of each stream with their times, or a note that there are none."""
    if episode is None:
        _box(sheet, _STREAMS, top, _FRAME, "0.95")
        middle = _STREAMS + _STRIPS * _STRIP / 2
        _write(sheet, middle, top + _FRAME / 2 + 4, "no media", ha="center", color="0.5")
        return
    _box(sheet, _STREAMS, top, _STRIP_LINE, "white")  # over words that are too wide
    for place, (name, frames) in enumerate(episode["streams"].items()):
        x = _STREAMS + place % _STRIPS * _STRIP
        y = top + place // _STRIPS * _STRIP_LINE
        _write(sheet, x, y + 10, name, fontsize=8, weight="bold")
        count = min(_FRAMES, len(frames))
        for i in range(count):
            index = round(i * (len(frames) - 1) / max(1, count - 1))
            frame = frames[index].permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
            height, width = (_FRAME * side / max(frame.shape[:2]) for side in frame.shape[:2])
            extent = (x, x + width, y + 16 + height, y + 16)
            sheet.imshow(frame, extent=extent, aspect="auto", zorder=1)
            times = episode["times"][name]  # of one frame each, or of several
            clock = f"{times[index * len(times) // len(frames)]:.2f} s"
            _write(sheet, x, y + 27 + height, clock, fontsize=7, color="0.4")
            x += _FRAME + 4


# All have one zorder: what is drawn later lies above.
def _write(sheet: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """A line from ``x``, standing on ``y``."""
    # What is left of control characters and the like cannot be drawn.
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in readable(text))
    # Questions about money have dollar signs, which are no mathematics.
    sheet.text(x, y, text, **{"fontsize": 9, "parse_math": False, "zorder": 1, **style})


def _box(sheet: Axes, x: float, y: float, height: float, colour: str) -> None:
    """From ``x`` to the right margin, and down from ``y``."""
    width = _WIDTH - _MARGIN - x
    sheet.add_patch(Rectangle((x, y), width, height, color=colour, lw=0, zorder=1))


def _spelt(text: str, options: Sequence[str]) -> str:
    """With the option that a letter stands for, such as ``B. a dog``."""
    named = dict(zip(ascii_uppercase, options, strict=False))
    letter = text.strip().rstrip(".")
    return f"{letter}. {named[letter]}" if letter in named else text.strip()
