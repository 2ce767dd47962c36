"""SQA3D: questions about a ScanNet scene from the viewpoint of someone in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import SPLITS, Benchmark, Names, QuestionRecord
from datamodules.benchmarks.records import Record, read_object
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols, submissions
from vlynx_pl.metrics.protocols import Protocol, verdicts

# The official evaluation breaks accuracy down by these, case-sensitively.
_FIRST_WORDS: Final = ("What", "Is", "How", "Can", "Which")


class SQA3D(Benchmark):
    """SQA3D v1.0: a file of questions and one of answers per split. The paper reports test.

    The label ``type`` is the question's first word: What, Is, How, Can, Which or Other.
    """

    modality = "3d"
    protocol = Protocol(
        "SQA3D",
        "sqa3d",
        protocols.sqa3d,
        verdicts(protocols.sqa3d_refined),
        submissions.sqa3d_rows,
    )
    names: ClassVar[Names] = {
        split: (
            f"v1_balanced_questions_{split}_scannetv2.json",
            f"v1_balanced_sqa_annotations_{split}_scannetv2.json",
        )
        for split in SPLITS
    }

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        questions, annotations = map(read_object, files)
        answered: dict[str, Record] = {}
        for annotation in annotations.children("annotations", "question_id"):
            if annotation.identifier("question_id") in answered:
                raise annotation.refuse("another annotation has the same question_id")
            answered[annotation.identifier("question_id")] = annotation
        for record in questions.children("questions", "question_id"):
            identifier, scene = record.identifier("question_id"), record.text("scene_id")
            if identifier not in answered:
                raise record.refuse(f"{annotations.path.name} has no answer to it")
            if answered[identifier].text("scene_id") != scene:
                raise record.expected("scene_id", f"that of its answer in {annotations.path.name}")
            text = record.text("question")
            first = text.split()[0]
            question = Question(
                id=identifier,
                prompt=prompts.sqa3d(record.text("situation"), text),
                answers=tuple(a.text("answer") for a in answered[identifier].children("answers")),
                labels={"type": first if first in _FIRST_WORDS else "Other"},
            )
            yield QuestionRecord(record, scene, {"scene": record.media("scene_id")}, question)
