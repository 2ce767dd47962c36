"""MLVU: nine tasks about videos of three minutes to two hours (the dev set, which has answers)."""

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


class MLVU(Benchmark):
    """MLVU's ``1_plotQA.json`` to ``9_summary.json``.

    A video is ``<name of the file>/<video>`` under MLVU's ``video/``, such as
    ``4_count/count_1.mp4``. The label is ``task``.

    Args:
        annotations: the folder of the files, with their official names.
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
        return [self.annotations / f"{_FILES[task]}.json" for task in self.tasks if split == "test"]

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        for task, path in zip(self.tasks, files, strict=True):
            form = "{}" if self.videos == "flat" else f"{_FILES[task]}/{{}}"
            for number, record in enumerate(read_records(path, "video")):
                video = record.media("video", form)
                question = _question(record, task, number)
                yield QuestionRecord(record, video, {"video": video}, question)


def _question(record: Record, task: str, number: int) -> Question:
    identifier, labels = f"{task}-{number}", {"task": task}
    if task in _GENERATION:
        answers = (record.text("answer"),)
        return Question(identifier, record.text("question"), answers, labels=labels)
    options = record.texts("candidates", 2, len(prompts.LETTERS), blank=True)
    answer = prompts.LETTERS[record.choice("answer", options)]
    # A published record has neither question nor options; official scores include it.
    prompt = prompts.mlvu(record.text("question", blank=True), options)
    return Question(identifier, prompt, (answer,), options=options, labels=labels)
