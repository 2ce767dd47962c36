"""The questions of the study: those of the toy worlds that require the modality in question.

Their answers have one or two words, so that the miniature learns them within minutes. The official
formats, with letters and long instructions, take it much longer.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from typing_extensions import override

from datamodules.benchmarks import MusicAVQA
from datamodules.benchmarks.base import Benchmark, Names, QuestionRecord
from datamodules.benchmarks.records import read_records
from datamodules.samples import Question, Split
from experiments.toyworld.blink_questions import blink_questions
from experiments.toyworld.blinks import sample_clip
from experiments.toyworld.ego import video_paths
from experiments.toyworld.hearing import heard_questions
from experiments.toyworld.questions import COUNTS, ToyQuestion, questions
from experiments.toyworld.scene import sample_scene
from experiments.toyworld.sound import add_sound
from experiments.toyworld.takes import SKILLS, sample_take
from vlynx_pl.io.files import atomic_file

ASKED: Final = {
    "3d": ("distance",),
    "audio": ("sounds", "which", "times"),
    "highfps": ("count",),
    "ego": ("skill",),
    "rgb": ("shape", "colour", "where", "exists"),  # of the rooms of 3d
}
"""World → kinds of its questions; no kind belongs to two worlds."""
_WORLDS: Final = {kind: world for world, kinds in ASKED.items() for kind in kinds}


def clip(worlds: Sequence[str], seed: int, index: int, most: int) -> dict[str, Any]:
    """Return the record of a clip: its media in these worlds, and at most ``most`` questions."""
    random = np.random.default_rng([seed, index, 5])
    media: dict[str, str] = {}
    asked: list[ToyQuestion] = []
    for world in worlds:
        files, possible = _room(world, seed, index)
        media |= files
        asked += [question for question in possible if question.kind in ASKED[world]]
    chosen = sorted(random.permutation(len(asked))[:most])
    return {
        "id": f"{'-'.join(worlds)}-{index:04d}",
        "media": media,
        "questions": [
            {"kind": q.kind, "text": q.text, "answer": q.answer}
            for q in map(asked.__getitem__, chosen)
        ],
    }


def _room(world: str, seed: int, index: int) -> tuple[dict[str, str], list[ToyQuestion]]:
    """Return the media of a clip in a world, and all questions about it."""
    match world:
        case "3d" | "rgb":
            scene = sample_scene(seed, index)
            return {"scene": scene.name}, questions(scene)
        case "audio":
            scene = sample_scene(seed, index)
            return {"video": f"videos/{scene.name}.mp4"}, heard_questions(add_sound(scene, seed))
        case "highfps":
            blinking = sample_clip(seed, index)
            return {"video": f"videos/{blinking.name}.mp4"}, blink_questions(blinking)
        case "ego":
            take = sample_take(seed, index)
            # In the miniature's vocabulary, the names of the levels are spelt letter by letter.
            level = COUNTS[1 + list(SKILLS).index(take.skill)]
            return video_paths(take), [ToyQuestion("skill", "How steady is the eye?", level, ())]
    raise ValueError(f"there is no world {world!r}")


class ToyQuestions(Benchmark):
    """``train.json`` and ``val.json``, with records of :func:`clip`."""

    names: ClassVar[Names] = {"train": ("train.json",), "val": ("val.json",)}
    protocol = MusicAVQA.protocol  # counts answers equal to the reference, by kind of question

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        for record in read_records(files[0], "id"):
            name = record.identifier("id")
            for number, asked in enumerate(record.children("questions")):
                kind = asked.text("kind")
                labels = {"modality": _WORLDS[kind], "type": kind}
                question = Question(
                    f"{name}-{number}", asked.text("text"), (asked.text("answer"),), labels=labels
                )
                yield QuestionRecord(record, name, record.fields["media"], question)


def write_questions(
    folder: Path, worlds: Sequence[str], seed: int, split: Split, clips: Sequence[int], most: int
) -> None:
    """Write the file of a split, without clips that have no questions."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [clip(worlds, seed, index, most) for index in clips]
    text = json.dumps([record for record in records if record["questions"]])
    with atomic_file(folder / f"{split}.json") as unfinished:
        unfinished.write_text(text)
