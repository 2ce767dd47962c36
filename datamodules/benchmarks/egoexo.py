"""Ego-Exo4D demonstrator proficiency: rating a skill from egocentric and exocentric views."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from typing_extensions import override

from datamodules.benchmarks import prompts
from datamodules.benchmarks.base import Benchmark, Names, QuestionRecord
from datamodules.benchmarks.records import Record, read_list, read_object
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols, submissions
from vlynx_pl.metrics.named_answers import same_level
from vlynx_pl.metrics.protocols import Protocol, verdicts

_VIEWS: Final = ("ego", "exo1", "exo2", "exo3", "exo4")


class EgoExo4D(Benchmark):
    """Ego-Exo4D's ``proficiency_demonstrator_{train,val}.json``, and the list of test takes.

    Media roles are ``ego`` and ``exo1`` to ``exo4``; takes often lack some. The answer is the name
    of one of four levels. Labels are ``scenario`` and ``task``.

    The test file holds only names of takes; their answers are not published. A test episode has no
    answers and a single role ``take``, the folder ``takes/<name>``, since the video names in its
    ``frame_aligned_videos`` do not state the view.
    """

    modality = "ego"
    protocol = Protocol(
        "EgoExo4D", "egoexo", protocols.egoexo, verdicts(same_level), submissions.egoexo_rows
    )
    names: ClassVar[Names] = {
        "train": ("proficiency_demonstrator_train.json",),
        "val": ("proficiency_demonstrator_val.json",),
        "test": ("demonstrator_proficiency_test_v2.json",),
    }

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        (path,) = files
        if split == "test":
            for number, take in enumerate(read_list(path)):
                record = Record(path, f"take {number}", {"name": take})
                media = {"take": record.media("name", "takes/{}")}
                yield QuestionRecord(record, take, media, Question(take, prompts.ego_exo4d(), ()))
            return
        for record in read_object(path).children("annotations", "take_uid"):
            take = record.text("take_uid")
            question = Question(
                id=take,
                prompt=prompts.ego_exo4d(),
                answers=(record.one_of("proficiency_score", list(prompts.PROFICIENCIES)),),
                labels={
                    "scenario": record.text("scenario_name"),
                    "task": record.text("task_name"),
                },
            )
            paths = record.child("video_paths")
            media = {view: paths.media(view) for view in _VIEWS if paths.has(view)}
            if not media:
                raise record.expected("video_paths", f"at least one of {', '.join(_VIEWS)}")
            yield QuestionRecord(record, take, media, question)
