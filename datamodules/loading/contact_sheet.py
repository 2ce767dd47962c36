"""A contact sheet of the frames that a data module returns."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

from torch import Tensor

from datamodules.base import ModalityDataModule
from datamodules.loading.inspection import Finding
from datamodules.samples import BadSample, Question
from vlynx_pl.io.files import atomic_file, readable

_COLUMNS = 10


def save_contact_sheet(
    data: ModalityDataModule, findings: Sequence[Finding], path: Path, rows: int = 24
) -> None:
    """Draw the frames of the first usable recordings of each part as PNG, one row per stream.

    Args:
        data: the data module that found them.
        findings: what it found.
        path: file to write.
        rows: maximum number of rows.

    Raises:
        BadSample: nothing is usable.
    """
    from matplotlib.figure import Figure

    parts = dict.fromkeys(finding.part for finding in findings)
    drawn = []
    for part in parts:
        of_part = [finding for finding in findings if finding.part == part]
        drawn += list(islice(_streams(data, of_part), max(1, rows // len(parts))))
    if not drawn:
        raise BadSample(data.root, "has nothing usable to draw", "See the reasons in --csv")
    figure = Figure(figsize=(2.4 + 1.1 * _COLUMNS, 0.4 + 1.15 * len(drawn)), layout="constrained")
    axes = figure.subplots(
        len(drawn), 1 + _COLUMNS, squeeze=False, width_ratios=[2] + _COLUMNS * [1]
    )
    for axis in axes.flat:
        axis.axis("off")
    for row, (label, frames) in zip(axes, drawn, strict=True):
        beside = {"ha": "right", "va": "center", "fontsize": 6, "parse_math": False}
        row[0].text(1, 0.5, readable(label), **beside)
        chosen = [i * len(frames) // _COLUMNS for i in range(_COLUMNS)]
        for axis, i in zip(row[1:], sorted(set(chosen)), strict=False):
            axis.imshow(frames[i].permute(1, 2, 0).numpy())
            axis.set_title(str(i), fontsize=5, pad=1)
    title = readable(f"{type(data).__name__}: frames of {data.root}")
    figure.suptitle(title, fontsize=8, parse_math=False)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _streams(data: ModalityDataModule, findings: Sequence[Finding]) -> Iterator[tuple[str, Tensor]]:
    """Label and frames (T, 3, H, W) of every stream, in order."""
    for finding in findings:
        read: Callable[[Any], Any] = data.serving.reader(finding.part)
        for sample in map(read, finding.usable):
            if isinstance(sample, tuple):
                yield f"{finding.part}\n{_wrapped(sample[1])}", sample[0]
                continue
            text = _question_text(sample["questions"][0])
            for name, frames in sample["streams"].items():
                yield f"{finding.part} {name}\n{_wrapped(sample['name'])}{text}", frames
                text = ""


def _question_text(question: Question) -> str:
    answers = " | ".join(question.answers) or "(withheld)"
    return f"\n{_wrapped(shorten(question.prompt, 150))}\n→ {shorten(answers, 40)}"


def _wrapped(text: str) -> str:
    return "\n".join(wrap(text, 46))
