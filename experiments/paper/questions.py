"""The study's questions: those of the toy worlds that only the sense in question can answer.

Their answers are one word or two, so that a miniature learns to give them within minutes; the
worlds' official formats, with letters and long instructions, take it far longer.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from typing_extensions import override

from datamodules.benchmarks.base import Asked, Benchmark, Names
from datamodules.benchmarks.records import read_records
from datamodules.samples import Question, Split
from datamodules.toyworld.blink_questions import blink_questions
from datamodules.toyworld.blinks import sample_clip
from datamodules.toyworld.ego_annotations import video_paths
from datamodules.toyworld.hearing import heard_questions
from datamodules.toyworld.questions import questions
from datamodules.toyworld.scene import sample_scene
from datamodules.toyworld.sound import add_sound
from datamodules.toyworld.takes import sample_take
from vlynx_pl.files import atomic_file

ASKED: Final = {
    "3d": ("distance",),
    "audio": ("sounds", "which", "times"),
    "highfps": ("blinks", "first", "last"),
    "ego": ("skill",),
}
"""World → the kinds of questions that are asked of it."""


def clip(world: str, seed: int, index: int, most: int) -> dict[str, Any]:
    """A clip's record: its media, and at most so many of its questions."""
    random = np.random.default_rng([seed, index, 5])
    match world:
        case "3d":
            scene = sample_scene(seed, index)
            media = {"scene": scene.name}
            asked = [(q.kind, q.text, q.answer) for q in questions(scene)]
        case "audio":
            scene = sample_scene(seed, index)
            media = {"video": f"videos/{scene.name}.mp4"}
            asked = [(q.kind, q.text, q.answer) for q in heard_questions(add_sound(scene, seed))]
        case "highfps":
            blinking = sample_clip(seed, index)
            media = {"video": f"videos/{blinking.name}.mp4"}
            asked = [(q.kind, q.text, q.answer) for q in blink_questions(blinking)]
        case "ego":
            take = sample_take(seed, index)
            media = video_paths(take)
            asked = [("skill", "How steady is the eye?", take.skill.split()[0].lower())]
    asked = [question for question in asked if question[0] in ASKED[world]]
    chosen = sorted(random.permutation(len(asked))[:most])
    return {
        "id": f"{world}-{index:04d}",
        "media": media,
        "questions": [dict(zip(("kind", "text", "answer"), asked[i], strict=True)) for i in chosen],
    }


class ToyQuestions(Benchmark):
    """``train.json`` and ``val.json``, as :func:`clip` gives them."""

    names: ClassVar[Names] = {"train": ("train.json",), "val": ("val.json",)}

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[Asked]:
        for record in read_records(files[0], "id"):
            name = record.identifier("id")
            for number, asked in enumerate(record.children("questions")):
                labels = {"modality": name.split("-")[0], "type": asked.text("kind")}
                question = Question(
                    f"{name}-{number}", asked.text("text"), (asked.text("answer"),), labels=labels
                )
                yield Asked(record, name, record.fields["media"], question)


def write_questions(
    folder: Path, world: str, seed: int, split: Split, clips: Sequence[int], most: int
) -> None:
    """Write a split's file; clips without such questions are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [clip(world, seed, index, most) for index in clips]
    text = json.dumps([record for record in records if record["questions"]])
    with atomic_file(folder / f"{split}.json") as unfinished:
        unfinished.write_text(text)
