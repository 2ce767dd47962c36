"""``vlynx score``: a file of predictions against a benchmark's official annotation, no model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from datamodules import benchmarks
from datamodules.benchmarks.base import SPLITS, Benchmark
from datamodules.benchmarks.records import read_records
from datamodules.samples import Episode, Split
from vlynx_pl.errors import UserError
from vlynx_pl.metrics import Answered, headline, scores_for, table

_MULTIPLE: Final = "multiref"  # the file of AVSD's six references


def score(
    benchmark: str,
    predictions: Path,
    references: Path,
    split: Split | None = None,
    protocol: str | None = None,
) -> Mapping[str, float]:
    """Print the scores of a file of predictions.

    A question without a prediction counts as failed, and so as wrong; the table says how many
    there are. A prediction without a question is an error.

    Args:
        benchmark: the name of its reader, such as ``ScanQA``.
        predictions: JSONL of ``{"id": ..., "prediction": ...}``; null is a failure.
        references: an official annotation file, or the folder of them.
        split: which split of a folder; not needed where it has one.
        protocol: the figure to print as the headline, such as ``mlvu/macro7``; None is the paper's.

    Returns:
        All figures.

    Raises:
        UserError: a file can't be used, the predictions aren't those of the split, or there is no
            such figure.
    """
    scores = scores_for(benchmark)
    episodes = read_references(benchmark, references, split)
    scores.update(matched(read_predictions(predictions), episodes, predictions, references))
    figures: dict[str, float] = scores.compute()
    if protocol is not None and protocol not in figures:
        raise UserError(f"--protocol {protocol}: use one of {', '.join(figures)}")
    rows: Table = table(figures, protocol or headline(figures))
    rows.title = f"{benchmark}: {predictions.name}"
    Console().print(rows)
    return figures


def read_predictions(path: Path) -> dict[str, str | None]:
    """Id → prediction; raises UserError where the file can't be used or repeats an id."""
    predictions: dict[str, str | None] = {}
    for record in read_records(path, "id"):
        identifier = record.identifier("id")
        if identifier in predictions:
            raise record.refuse(f"another prediction has the same id {identifier!r:.60}")
        if "prediction" not in record.fields:
            raise record.expected("prediction", "a text, or null for a failure")
        said = record.text("prediction", blank=True) if record.has("prediction") else None
        predictions[identifier] = said
    if not predictions:
        raise UserError(f"{path}: holds no prediction. Give the file that an evaluation wrote")
    return predictions


def read_references(benchmark: str, path: Path, split: Split | None = None) -> list[Episode]:
    """A split's episodes, of an annotation file or of a folder of them; raises UserError."""
    reader: type[Benchmark] = getattr(benchmarks, benchmark)
    if path.is_dir() or reader is benchmarks.VideoMME:
        opened = reader(path)
        there = opened.splits()
        if split is None and len(there) > 1:
            raise UserError(f"{path} has the splits {', '.join(there)}; say which by --split")
        return opened.episodes(split or (there[0] if there else "test"))
    if reader is benchmarks.AVSD and _MULTIPLE in path.name:
        opened = benchmarks.AVSD(path.parent, references="multiple")
    else:
        opened = reader(path.parent)
    for name in SPLITS:
        if path in opened.files(name) and split in {None, name}:
            return opened.episodes(name)
    read = ", ".join(file.name for name in SPLITS for file in opened.files(name))
    wanted = f" for {split}" if split else ""
    raise UserError(f"{path}: {benchmark} doesn't read it{wanted}; beside it, it reads {read}")


def matched(
    predictions: Mapping[str, str | None], episodes: list[Episode], said: Path, wanted: Path
) -> list[Answered]:
    """All questions with their predictions, None where there is none.

    Raises:
        UserError: a prediction belongs to none of the questions.
    """
    answered = [
        Answered(
            id=question.id,
            prediction=predictions.get(question.id),
            references=question.answers,
            options=question.options,
            labels=question.labels,
            clip=episode.name,
            question=question.prompt,
        )
        for episode in episodes
        for question in episode.questions
    ]
    if unknown := predictions.keys() - {answer.id for answer in answered}:
        raise UserError(
            f"{said}: {len(unknown)} of {len(predictions)} ids are not in {wanted}, such as "
            f"{min(unknown)!r:.60}; it has ids such as {answered[0].id!r:.60}. Give the "
            "references of the split that was answered"
        )
    return answered
