"""AVUT: four-option questions that require the sound of a video."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import Benchmark, QuestionRecord
from datamodules.benchmarks.records import read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols
from vlynx_pl.metrics.protocols import Protocol, verdicts

_LETTERS: Final = prompts.LETTERS[:4]


class AVUT(Benchmark):
    """AVUT: train is ``AV_Gemini_data.json``, test is ``AV_Human_data.json``, as in the paper.

    A video is ``video_path`` (``video_id`` is -1 throughout AV-Gemini). Labels are ``task``, such
    as Audio OCR Matching, and ``type`` of the video.

    Args:
        annotations: the folder of the files, with their official names.
        filtered: read ``AV_Gemini_filtered_data.json`` as train.
    """

    modality = "audio"
    protocol = Protocol("AVUT", "avut", protocols.avut, verdicts(protocols.letter_first))
    absent = "AV-Gemini is train, AV-Human is test"

    def __init__(self, annotations: str | Path, filtered: bool = False) -> None:
        super().__init__(annotations)
        self.filtered = filtered

    @override
    def files(self, split: Split) -> list[Path]:
        gemini = "AV_Gemini_filtered_data.json" if self.filtered else "AV_Gemini_data.json"
        names = {"train": [gemini], "val": [], "test": ["AV_Human_data.json"]}
        return [self.annotations / name for name in names[split]]

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        for record in read_records(files[0], "QA_id"):
            # A published record has an option without text, which is the correct one.
            options = tuple(record.text(f"option_{letter}", blank=True) for letter in _LETTERS)
            question = Question(
                id=record.identifier("QA_id"),
                prompt=prompts.avqa(record.text("question", blank=True), options),
                answers=(record.one_of("answer", _LETTERS),),
                options=options,
                labels={"task": record.text("task_type"), "type": record.text("video_type")},
            )
            video = record.media("video_path")
            yield QuestionRecord(record, video, {"video": video}, question)
