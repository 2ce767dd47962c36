"""Pictures of what a data module gives, to be looked at before a model is."""

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
    """Draw the frames of each part's first usable recordings, a row a stream, as PNG.

    Args:
        data: the data module that found them.
        findings: what it found.
        path: file to write.
        rows: draw so many at most.

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
    for row, (label, pictures) in zip(axes, drawn, strict=True):
        beside = {"ha": "right", "va": "center", "fontsize": 6, "parse_math": False}
        row[0].text(1, 0.5, readable(label), **beside)
        chosen = [i * len(pictures) // _COLUMNS for i in range(_COLUMNS)]
        for axis, i in zip(row[1:], sorted(set(chosen)), strict=False):
            axis.imshow(pictures[i].permute(1, 2, 0).numpy())
            axis.set_title(str(i), fontsize=5, pad=1)
    title = readable(f"{type(data).__name__}: frames of {data.root}")
    figure.suptitle(title, fontsize=8, parse_math=False)
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, dpi=110, format="png")


def _streams(data: ModalityDataModule, findings: Sequence[Finding]) -> Iterator[tuple[str, Tensor]]:
    """Label and pictures (T, 3, H, W) of every stream, in order."""
    for finding in findings:
        read: Callable[[Any], Any] = data.serving.reader(finding.part)
        for sample in map(read, finding.usable):
            if isinstance(sample, tuple):
                yield f"{finding.part}\n{_folded(sample[1])}", sample[0]
                continue
            asked = _words(sample["questions"][0])
            for name, pictures in sample["streams"].items():
                yield f"{finding.part} {name}\n{_folded(sample['name'])}{asked}", pictures
                asked = ""


def _words(question: Question) -> str:
    answers = " | ".join(question.answers) or "(kept back)"
    return f"\n{_folded(shorten(question.prompt, 150))}\n→ {shorten(answers, 40)}"


def _folded(text: str) -> str:
    return "\n".join(wrap(text, 46))
