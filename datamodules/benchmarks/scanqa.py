"""ScanQA: questions about the objects in a ScanNet scene, answered in a few words."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from datamodules.benchmarks.base import Benchmark, Names, QuestionRecord
from datamodules.benchmarks.records import read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols, submissions
from vlynx_pl.metrics.captions import cider_of_each
from vlynx_pl.metrics.protocols import Protocol
from vlynx_pl.metrics.scene_answers import clean_answer


class ScanQA(Benchmark):
    """ScanQA v1.0. The answers of test are not published; the paper reports val."""

    modality = "3d"
    protocol = Protocol(
        "ScanQA",
        "scanqa",
        protocols.scanqa,
        partial(cider_of_each, clean=clean_answer),
        submissions.scanqa_rows,
        java=True,
        quick=partial(protocols.scanqa, measures=["cider"]),
    )
    names: ClassVar[Names] = {
        "train": ("ScanQA_v1.0_train.json",),
        "val": ("ScanQA_v1.0_val.json",),
        "test": ("ScanQA_v1.0_test_w_obj.json",),
    }

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        for record in read_records(files[0], "question_id"):
            hidden = split == "test" and not record.has("answers")
            question = Question(
                id=record.identifier("question_id"),
                prompt=record.text("question"),
                answers=() if hidden else record.texts("answers"),
                objects=record.numbers("object_ids") if record.has("object_ids") else (),
            )
            yield QuestionRecord(
                record, record.text("scene_id"), {"scene": record.media("scene_id")}, question
            )
