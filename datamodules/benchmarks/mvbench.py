"""MVBench: twenty tasks of two hundred choice questions about moments of short videos."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import Asked, Benchmark, chosen
from datamodules.benchmarks.records import Record, read_records
from datamodules.samples import Question, Split

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
_OF_FRAMES: Final = "episodic_reasoning"


class MVBench(Benchmark):
    """MVBench's ``<task>.json``.

    A video is ``<folder of the task>/<video>`` under MVBench's ``video/``. Episodic reasoning has
    folders of pictures, three a second, in the role ``frames``. Questions with ``start`` and
    ``end`` are about that part. The label is ``task``.

    Args:
        annotations: the folder of the files, with their official names.
        tasks: names of tasks, such as ``action_count``; None is all twenty.
        videos: ``official`` has a folder for each source, ``flat`` all videos in one.
    """

    absent = "it is for evaluation only"

    def __init__(
        self,
        annotations: str | Path,
        tasks: Sequence[str] | None = None,
        videos: Literal["official", "flat"] = "official",
    ) -> None:
        super().__init__(annotations)
        self.videos = videos
        self.tasks = chosen(tasks, _FOLDERS)

    @override
    def files(self, split: Split) -> list[Path]:
        return [self.annotations / f"{task}.json" for task in self.tasks if split == "test"]

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[Asked]:
        for task, path in zip(self.tasks, files, strict=True):
            form = "{}" if self.videos == "flat" else f"{_FOLDERS[task]}/{{}}"
            for number, record in enumerate(read_records(path, "video")):
                options = record.texts("candidates", 2, len(prompts.LETTERS), blank=True)
                question = Question(
                    id=f"{task}-{number}",
                    prompt=prompts.mvbench(record.text("question", blank=True), options),
                    answers=(prompts.LETTERS[record.choice("answer", options)],),
                    options=options,
                    labels={"task": task},
                )
                video = record.media("video", form)
                media = {"frames" if task == _OF_FRAMES else "video": video}
                span = _span(record)
                clip = video if span is None else f"{video}@{span[0]}-{span[1]}"
                yield Asked(record, clip, media, question, span)


def _span(record: Record) -> tuple[float, float] | None:
    if not record.has("start") and not record.has("end"):
        return None
    start, end = record.seconds("start"), record.seconds("end")
    if start >= end:  # one record of the first release; since corrected
        raise record.refuse(f"start {start} should be before end {end}")
    return start, end
