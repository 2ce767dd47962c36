"""VideoMME: 2,700 four-option questions about 900 videos of up to an hour."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import Benchmark, QuestionRecord
from datamodules.benchmarks.records import Record, read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols, submissions
from vlynx_pl.metrics.protocols import Protocol, verdicts

_LETTERS: Final = prompts.LETTERS[:4]
_TABLE: Final = "videomme/test-00000-of-00001.parquet"  # in a download of the hub


class VideoMME(Benchmark):
    """VideoMME from a download of the hub, or from one file, as rows or nested.

    Rows are those of the hub's parquet table, also as JSON or JSONL. Nested is the official
    template for results, in which each video has its ``questions``; as published it has trailing
    commas, which are not JSON.

    A video is ``<videoID>.mp4``, or ``<video_id>.mp4`` without a ``videoID``; it may be in
    ``data/``, as in the hub's zips. Labels are ``duration``, ``domain``, ``sub_category`` and
    ``task_type``.

    Args:
        annotations: the folder of the download; or the parquet, JSON or JSONL file.
    """

    modality = "highfps"
    tuned_on = "llava_video"
    protocol = Protocol(
        "VideoMME",
        "videomme",
        protocols.video_mme,
        verdicts(protocols.video_mme_lmms),
        submissions.video_mme_videos,
    )
    absent = "it is for evaluation only"
    media_folders = ("data",)

    @override
    def files(self, split: Split) -> list[Path]:
        path = self.annotations / _TABLE if self.annotations.is_dir() else self.annotations
        return [path] if split == "test" else []

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        for record in read_records(files[0], "question_id", "video_id"):
            if record.has("questions"):
                for question in record.children("questions", "question_id"):
                    yield _asked(record, question)
            else:
                yield _asked(record, record)


def _asked(video: Record, record: Record) -> QuestionRecord:
    listed = record.texts("options", 4, 4)
    for letter, option in zip(_LETTERS, listed, strict=True):
        if not option.startswith(f"{letter}."):
            raise record.refuse(f"option {option!r:.60} should begin with '{letter}. '")
    labels = {field: video.text(field) for field in ("duration", "domain", "sub_category")}
    question = Question(
        id=record.identifier("question_id"),
        prompt=prompts.video_mme(record.text("question", blank=True), listed),
        answers=(record.one_of("answer", _LETTERS),),
        options=tuple(option[2:].strip() for option in listed),
        labels=labels | {"task_type": record.text("task_type")},
    )
    field = "videoID" if video.has("videoID") else "video_id"
    return QuestionRecord(
        video, video.text(field), {"video": video.media(field, "{}.mp4")}, question
    )
