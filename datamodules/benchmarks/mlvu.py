"""MLVU: nine tasks about videos of three minutes to two hours (the dev set, which has answers)."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import Benchmark, QuestionRecord, validate_tasks
from datamodules.benchmarks.records import Record, read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols, submissions
from vlynx_pl.metrics.protocols import Protocol, verdicts

# The seven choice tasks form M-Avg, which the paper reports.
_CHOICE: Final = {
    "plotQA": "1_plotQA",
    "needle": "2_needle",
    "ego": "3_ego",
    "count": "4_count",
    "order": "5_order",
    "anomaly_reco": "6_anomaly_reco",
    "topic_reasoning": "7_topic_reasoning",
}
_GENERATION: Final = {"sub_scene": "8_sub_scene", "summary": "9_summary"}
_FILES: Final = _CHOICE | _GENERATION
_TABLE: Final = "mlvu/test-00000-of-00001.parquet"  # in a download of lmms-eval's copy
_LISTED: Final = re.compile(r"\n(Options:\s*)?\(?A[).].*", re.DOTALL)  # options in a question


class MLVU(Benchmark):
    """MLVU's ``1_plotQA.json`` to ``9_summary.json``, or lmms-eval's parquet table.

    A video is ``<name of the file>/<video>`` under MLVU's ``video/``, such as
    ``4_count/count_1.mp4``. The table has the choice tasks alone, and all videos in one folder. The
    label is ``task``.

    Args:
        annotations: the folder of the files, with their official names, or of a download from the
            hub: MLVU/MVLU, or lmms-eval's copy sy1998/MLVU_dev.
        tasks: some of plotQA, needle, ego, count, order, anomaly_reco, topic_reasoning, and the
            generation tasks sub_scene and summary; None is the seven choice tasks.
        videos: ``official`` for a folder per task, ``flat`` for all videos in one.
    """

    modality = "highfps"
    tuned_on = "llava_video"
    protocol = Protocol(
        "MLVU",
        "mlvu",
        protocols.mlvu,
        verdicts(protocols.mlvu_released),
        submissions.mlvu_rows,
    )
    absent = "its dev set, test here, is for evaluation only"
    folders = ("MLVU/json", "json")
    media_folders = ("MLVU/video", "video")

    def __init__(
        self,
        annotations: str | Path,
        tasks: Sequence[str] | None = None,
        videos: Literal["official", "flat"] = "official",
    ) -> None:
        super().__init__(annotations)
        self.videos = videos
        self.tasks = validate_tasks(tuple(_CHOICE) if tasks is None else tasks, _FILES)

    @override
    def files(self, split: Split) -> list[Path]:
        if split != "test":
            return []
        files = self.find([f"{_FILES[task]}.json" for task in self.tasks])
        table = self.annotations / _TABLE
        if any(path.exists() for path in files) or not table.parent.is_dir():
            return files
        return [table] if set(self.tasks) <= set(_CHOICE) else files

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        if files[0].suffix == ".parquet":
            yield from self._rows(files[0])
            return
        for task, path in zip(self.tasks, files, strict=True):
            form = "{}" if self.videos == "flat" else f"{_FILES[task]}/{{}}"
            for number, record in enumerate(read_records(path, "video")):
                video = record.media("video", form)
                question = _question(record, task, number)
                yield QuestionRecord(record, video, {"video": video}, question)

    def _rows(self, path: Path) -> Iterator[QuestionRecord]:
        numbers: Counter[str] = Counter()
        for record in read_records(path, "video_name"):
            task = record.one_of("task_type", tuple(_CHOICE))
            if task in self.tasks:
                video = record.media("video_name")
                question = _listed_question(record, task, numbers[task])
                yield QuestionRecord(record, video, {"video": video}, question)
            numbers[task] += 1


def _question(record: Record, task: str, number: int) -> Question:
    identifier, labels = f"{task}-{number}", {"task": task}
    if task in _GENERATION:
        answers = (record.text("answer"),)
        return Question(identifier, record.text("question"), answers, labels=labels)
    options = _options(record)
    answer = prompts.LETTERS[record.choice("answer", options)]
    # A published record has neither question nor options; official scores include it.
    prompt = prompts.mlvu(record.text("question", blank=True), options)
    return Question(identifier, prompt, (answer,), options=options, labels=labels)


def _listed_question(record: Record, task: str, number: int) -> Question:
    """The question of a row, which repeats the options; its answer is a letter or a text."""
    options = _options(record)
    letters = prompts.LETTERS[: len(options)]
    text = record.text("answer", blank=True) in options
    answer = letters[record.choice("answer", options)] if text else record.one_of("answer", letters)
    asked = _LISTED.sub("", record.text("question", blank=True)).removeprefix("Question: ")
    prompt, labels = prompts.mlvu(asked, options), {"task": task}
    return Question(f"{task}-{number}", prompt, (answer,), options=options, labels=labels)


def _options(record: Record) -> tuple[str, ...]:
    return record.texts("candidates", 2, len(prompts.LETTERS), blank=True)
