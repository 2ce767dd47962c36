"""AVQA: four-option questions about what is seen and heard in ten-second VGGSound clips."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import Benchmark, Names, QuestionRecord
from datamodules.benchmarks.records import read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics import named_answers, protocols, submissions
from vlynx_pl.metrics.protocols import Protocol, verdicts


class AVQA(Benchmark):
    """AVQA's ``train_qa.json`` and ``val_qa.json``.

    A video is ``<video_name>.mp4``; labels are ``relation`` (View, Sound, Both) and ``type``.
    """

    modality = "audio"
    protocol = Protocol(
        "AVQA",
        "avqa",
        protocols.avqa,
        verdicts(named_answers.contains),
        submissions.avqa_rows,
    )
    names: ClassVar[Names] = {"train": ("train_qa.json",), "val": ("val_qa.json",)}
    absent = "its answers were never published; papers report val"

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        for record in read_records(files[0], "id"):
            options = record.texts("multi_choice", 4, 4, blank=True)
            question = Question(
                id=record.identifier("id"),
                prompt=prompts.avqa(record.text("question_text", blank=True), options),
                answers=(prompts.LETTERS[record.index("answer", len(options))],),
                options=options,
                labels={
                    "relation": record.text("question_relation"),
                    "type": record.text("question_type"),
                },
            )
            media = {"video": record.media("video_name", "{}.mp4")}
            yield QuestionRecord(record, record.text("video_name"), media, question)
