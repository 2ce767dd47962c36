"""MVBench: twenty tasks of two hundred choice questions about short videos."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import Benchmark, QuestionRecord, validate_tasks
from datamodules.benchmarks.records import Record, read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols
from vlynx_pl.metrics.protocols import Protocol, verdicts

# Task → folder of its videos, from MVBench's notebook.
_FOLDERS: Final = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
# Folders on the hub with videos missing in the first release, or with MP4 copies.
_SECOND: Final = {
    "star/Charades_v1_480": "data0613/star/Charades_v1_480",
    "clevrer/video_validation": "data0613/clevrer/video_validation",
    "ssv2_video": "ssv2_video_mp4",
    "nturgbd": "nturgbd_convert",
}
# Folders of the hub's revision ``video``, whose records name clips that are already cut.
_PARTS: Final = {
    "star/Charades_v1_480": "star/Charades_segment",
    "sta/sta_video": "sta/sta_video_segment",
    "tvqa/frames_fps3_hq": "tvqa/video_fps3_hq_segment",
}
_PART: Final = re.compile(r".+_[0-9.]+_[0-9.]+\.mp4")  # x_1.5_4.0.mp4
_OF_FRAMES: Final = "episodic_reasoning"


class MVBench(Benchmark):
    """MVBench's ``<task>.json``.

    A video is ``<folder of the task>/<video>`` under MVBench's ``video/``, or in the hub's folder
    of later or converted copies. Episodic reasoning has folders of frames, three per second, in the
    role ``frames``. Questions with ``start`` and ``end`` are about that part; the hub's revision
    ``video`` names files of the parts instead. The label is ``task``.

    Args:
        annotations: the folder of the files, with their official names, or of the download.
        tasks: names of tasks, such as ``action_count``; None is all twenty.
        videos: ``official`` for a folder per source, ``flat`` for all videos in one.
    """

    modality = "highfps"
    tuned_on = "llava_video"
    protocol = Protocol("MVBench", "mvbench", protocols.mvbench, verdicts(protocols.mvbench_lmms))
    absent = "it is for evaluation only"
    folders = ("json",)
    media_folders = ("video",)

    def __init__(
        self,
        annotations: str | Path,
        tasks: Sequence[str] | None = None,
        videos: Literal["official", "flat"] = "official",
    ) -> None:
        super().__init__(annotations)
        self.videos = videos
        self.tasks = validate_tasks(tasks, _FOLDERS)

    @override
    def files(self, split: Split) -> list[Path]:
        return self.find([f"{task}.json" for task in self.tasks if split == "test"])

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        for task, path in zip(self.tasks, files, strict=True):
            folder = _FOLDERS[task]
            for number, record in enumerate(read_records(path, "video")):
                options = record.texts("candidates", 2, len(prompts.LETTERS), blank=True)
                question = Question(
                    id=f"{task}-{number}",
                    prompt=prompts.mvbench(record.text("question", blank=True), options),
                    answers=(prompts.LETTERS[record.choice("answer", options)],),
                    options=options,
                    labels={"task": task},
                )
                part = folder in _PARTS and bool(_PART.fullmatch(record.text("video")))
                official = self.videos == "official"
                place = _PARTS[folder] if part else folder
                video = record.media("video", f"{place}/{{}}" if official else "{}")
                role = "frames" if task == _OF_FRAMES and not part else "video"
                elsewhere = {}
                if official and folder in _SECOND:
                    elsewhere[role] = record.media("video", f"{_SECOND[folder]}/{{}}")
                span = None if part else _span(record)
                clip = video if span is None else f"{video}@{span[0]}-{span[1]}"
                yield QuestionRecord(record, clip, {role: video}, question, span, elsewhere)


def _span(record: Record) -> tuple[float, float] | None:
    if not record.has("start") and not record.has("end"):
        return None
    start, end = record.seconds("start"), record.seconds("end")
    if start >= end:  # one record of the first release, corrected since
        raise record.refuse(f"start {start} should be before end {end}")
    return start, end
