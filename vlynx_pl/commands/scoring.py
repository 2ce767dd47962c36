"""``vlynx score``: scores a file of predictions by a benchmark's official annotation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.benchmarks.avsd import AVSD
from datamodules.benchmarks.base import SPLITS, protocol_of, readers
from datamodules.benchmarks.records import Record, read_records, read_values
from datamodules.benchmarks.video_mme import VideoMME
from datamodules.samples import BadSample, Episode, Split
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics import (
    Answered,
    Scores,
    comparison,
    describe_failures,
    differences,
    failures,
    intervals,
    table,
)
from vlynx_pl.metrics.answered import merged

# Fields of the id and the prediction, also in the files of others.
_FORMS: Final = (
    ("id", "prediction"),
    ("question_id", "text"),  # PAVE's of ScanQA and SQA3D
    ("question_id", "caption"),  # PAVE's of AVQA
    ("image_id", "caption"),  # COCO's, as PAVE's of AVSD
    ("doc", "filtered_resps"),  # lmms-eval's samples; the id is in the question's record
)
_EXPECTED: Final = (
    'Predictions are {"id": ..., "prediction": ...}, one on each line (JSON Lines) or in a list, '
    "or one object of id: prediction"
)
_MULTIPLE: Final = "multiref"  # the file of AVSD's six references


def score(
    benchmark: str,
    predictions: Path,
    references: Path,
    split: Split | None = None,
    protocol: str | None = None,
    against: Path | None = None,
) -> Mapping[str, float]:
    """Print the scores of a file of predictions, and how they differ from those of another.

    A question without a prediction counts as failed, and so as wrong; the table shows how many
    there are. A prediction without a question is an error.

    Args:
        benchmark: name of its reader, such as ``ScanQA``.
        predictions: see :func:`read_predictions`; null is a failure.
        references: an official annotation file, or the folder of them.
        split: of a folder; may be omitted if the folder has only one.
        protocol: the figure to print as the headline, such as ``mlvu/macro7``; None is the paper's.
        against: other predictions for the same questions.

    Returns:
        All figures.

    Raises:
        UserError: a file cannot be used, the predictions do not belong to the split, or there is no
            such figure; or, after all others were printed, one could not be computed.
    """
    scores = Scores(protocol_of(benchmark))
    episodes = read_references(benchmark, references, split)
    said = read_predictions(predictions, benchmark)
    others = {} if against is None else read_predictions(against, benchmark)
    if against is not None:
        refuse_other_questions(said, others, predictions, against)
    figures = scores.figures(merged(matched(said, episodes, predictions, references)))
    if protocol is not None and protocol not in figures:
        raise UserError(f"--protocol {protocol}: use one of {', '.join(figures)}")
    console = Console()
    rows: Table = table(figures, intervals(figures), protocol)
    rows.title = escape(f"{benchmark}: {predictions.name}")
    console.print(rows)
    if against is not None:
        other = scores.figures(merged(matched(others, episodes, against, references)))
        _print_differences(console, figures, other, protocol, against)
    if failed := failures(figures):
        raise UserError(describe_failures(failed))
    return figures


def refuse_other_questions(
    said: Mapping[str, str | None], others: Mapping[str, str | None], path: Path, other: Path
) -> None:
    """Raise UserError if two files do not answer the same questions."""
    for one, two, has, lacks in ((said, others, path, other), (others, said, other, path)):
        if alone := one.keys() - two.keys():
            raise UserError(
                f"{lacks} does not answer {len(alone)} of the {len(one)} questions of {has}, such "
                f"as {min(alone)!r:.60}; a paired difference needs the same questions in both "
                "files, so give two files of one split"
            )


def _print_differences(
    console: Console,
    figures: Mapping[str, float],
    others: Mapping[str, float],
    protocol: str | None,
    against: Path,
) -> None:
    compared = differences(figures, others)
    if not compared:
        console.print("The difference has no interval, since all questions are about one clip.")
        return
    if protocol in compared:
        compared = {protocol: compared[protocol]} | compared
    rows: Table = comparison(compared, figures)
    rows.title = escape(f"minus {against.name}")
    console.print(rows)


def read_predictions(path: Path, benchmark: str | None = None) -> dict[str, str | None]:
    """Read id → prediction.

    Besides our own files, this reads an object of ``id: prediction``, and what PAVE, COCO's
    evaluations and lmms-eval (samples of our own tasks, or with ids of questions) write.

    Raises:
        UserError: the file cannot be used, repeats an id, or names another benchmark, as files of
            runs do; the message shows the expected format.
    """
    predictions: dict[str, str | None] = {}
    try:
        for record in _records(path):
            identifier, said = _prediction(record)
            if identifier in predictions:
                raise record.refuse(f"another prediction has the same id {identifier!r:.60}")
            if benchmark and (of := record.fields.get("benchmark", benchmark)) != benchmark:
                raise UserError(
                    f"{path}: {record.place} belongs to the benchmark {of!r:.60}; give "
                    f"--benchmark {of!s:.60}"
                )
            predictions[identifier] = said
    except BadSample as bad:
        if bad.trouble == "missing":
            remedy = "Give the file that an evaluation wrote"
        else:  # the remedies for annotations do not apply to the user's own file
            with path.open(encoding="utf-8-sig", errors="replace") as file:
                remedy = f"{_EXPECTED}. This file begins with {file.read(200)!r}"
        raise BadSample(path, bad.reason, remedy, bad.trouble) from bad
    if not predictions:
        raise UserError(f"{path}: contains no prediction. Give the file that an evaluation wrote")
    return predictions


def _records(path: Path) -> list[Record]:
    """Read a record for each prediction of a file; raise BadSample if it cannot be used."""
    match read_values(path):
        case [dict(only)] if only.keys() & {name for form in _FORMS for name in form}:
            return [Record(path, "record 0", only)]
        case [dict(only)]:
            rows = [{"id": name, "prediction": said} for name, said in only.items()]
            return [Record(path, f"id {row['id']!r:.60}", row) for row in rows]
    return read_records(path, "id", "question_id", "image_id", "doc_id")


def _prediction(record: Record) -> tuple[str, str | None]:
    fields = record.fields.keys()
    figure = next((name for name in fields if "/" in name), None)
    if figure and "filtered_resps" in fields:  # a sample of our own tasks in lmms-eval
        identifier, said = record.texts(figure, 2, 2, blank=True)
        return identifier, said
    name, text = next((form for form in _FORMS if fields >= set(form)), _FORMS[0])
    if name == "doc":
        return record.child(name).identifier("question_id"), record.texts(text, 1, 1, blank=True)[0]
    identifier = record.identifier(name)
    if text not in fields:
        raise record.expected(text, "a text, or null for a failure")
    return identifier, record.text(text, blank=True) if record.has(text) else None


def read_references(benchmark: str, path: Path, split: Split | None = None) -> list[Episode]:
    """Read a split's episodes from an annotation file or a folder; raise UserError."""
    reader = readers()[benchmark]
    if path.is_dir() or reader is VideoMME:
        opened = reader(path)
        there = opened.splits()
        if split is None and len(there) > 1:
            raise UserError(f"{path} has the splits {', '.join(there)}; choose one with --split")
        return opened.episodes(split or (there[0] if there else "test"))
    if reader is AVSD and _MULTIPLE in path.name:
        opened = AVSD(path.parent, references="multiple")
    else:
        opened = reader(path.parent)
    for name in SPLITS:
        if path in opened.files(name) and split in {None, name}:
            return opened.episodes(name)
    read = ", ".join(file.name for name in SPLITS for file in opened.files(name))
    wanted = f" for {split}" if split else ""
    raise UserError(
        f"{path}: {benchmark} does not read it{wanted}; in that folder, it reads {read}"
    )


def matched(
    predictions: Mapping[str, str | None], episodes: list[Episode], said: Path, wanted: Path
) -> list[Answered]:
    """Combine all questions with their predictions, None for a missing one.

    Raises:
        UserError: a prediction does not belong to any question.
    """
    answered = [
        Answered.of(question, predictions.get(question.id), episode.name)
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
