"""AVSD: ten rounds of questions and answers about a Charades video (DSTC7 track 3, and v0.1).

The paper trains on v0.1 in samples of five rounds, as PAVE prepares them, and evaluates the last
round of each of DSTC7's 1,710 test dialogues, given all earlier rounds.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, Literal

from typing_extensions import override

from datamodules.benchmarks.base import Benchmark, Names, QuestionRecord
from datamodules.benchmarks.records import Record, read_object
from datamodules.samples import Question, Split
from vlynx_pl.metrics import protocols, submissions
from vlynx_pl.metrics.captions import cider_of_each
from vlynx_pl.metrics.protocols import Protocol

_V01: Final = "avsd_train.json"
_UNDISCLOSED: Final = "__UNDISCLOSED__"
_MULTIPLE: Final = "test_set4DSTC7-AVSD_multiref.json"


class AVSD(Benchmark):
    """AVSD's official files.

    The first existing file of a split is read:

    - train: ``avsd_train.json`` (v0.1), ``train_set4DSTC7-AVSD.json``
    - val: ``valid_set4DSTC7-AVSD.json``
    - test: ``mock_test_set4DSTC10-AVSD_from_DSTC7_singref.json``, ``lbl_test_set4DSTC7-AVSD.json``,
      ``test_set4DSTC7-AVSD.json`` (without answers)

    A video is ``<image_id>.mp4``, as in Charades_v1_480.

    Args:
        annotations: the folder of the files, with their official names.
        turns_per_sample: rounds per training sample; its earlier rounds are history, whose answers
            are learnt as well. None is the whole dialogue. Rounds left over form a shorter sample;
            PAVE drops them, but official dialogues have ten rounds, so there are none.
        references: of the test split. ``single`` is the dialogue's own answer, as in PAVE and the
            paper; ``multiple`` the six of ``test_set4DSTC7-AVSD_multiref.json``, as in DSTC7 and
            most of the literature.
    """

    modality = "audio"
    protocol = Protocol(
        "AVSD",
        "avsd",
        protocols.avsd,
        cider_of_each,
        submissions.avsd_dialogs,
        java=True,
        quick=partial(protocols.avsd, measures=["cider"]),
    )
    names: ClassVar[Names] = {
        "train": (_V01, "train_set4DSTC7-AVSD.json"),
        "val": ("valid_set4DSTC7-AVSD.json",),
        "test": (
            "mock_test_set4DSTC10-AVSD_from_DSTC7_singref.json",
            "lbl_test_set4DSTC7-AVSD.json",
            "test_set4DSTC7-AVSD.json",
        ),
    }

    def __init__(
        self,
        annotations: str | Path,
        turns_per_sample: int | None = 5,
        references: Literal["single", "multiple"] = "single",
    ) -> None:
        super().__init__(annotations)
        if turns_per_sample is not None and turns_per_sample < 1:
            raise ValueError(f"turns_per_sample={turns_per_sample}; give 1 or more, or null")
        self.turns_per_sample, self.references = turns_per_sample, references

    @override
    def files(self, split: Split) -> list[Path]:
        missing = self.annotations / " or ".join(self.names[split])
        files = [next((path for path in super().files(split) if path.is_file()), missing)]
        if split == "test" and self.references == "multiple":
            files.append(self.annotations / _MULTIPLE)
        return files

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        path, *others = files
        captions = _captions(others[0]) if others else None
        for image_id, record, rounds in _dialogues(path):
            media = {"video": record.media("image_id", "{}.mp4")}
            turns = [(turn.text("question"), turn.text("answer")) for turn in rounds]
            if split == "train":
                questions = _samples(image_id, turns, self.turns_per_sample or len(turns))
            else:
                questions = [_last_turn(image_id, turns)]
            if captions is not None:
                name = f"{image_id}_{len(turns) - 1}"
                if name not in captions:
                    raise record.refuse(f"{_MULTIPLE} has no references for {name!r:.60}")
                (question,) = questions
                questions = [Question(image_id, question.prompt, captions[name], question.history)]
            if any(_UNDISCLOSED in turn for q in questions for turn in q.history):
                raise record.refuse("an answer before the last is undisclosed")
            if split == "train" and any(_UNDISCLOSED in q.answers for q in questions):
                raise record.refuse("an answer to learn is undisclosed")
            yield from (QuestionRecord(record, image_id, media, question) for question in questions)


def _dialogues(path: Path) -> Iterator[tuple[str, Record, list[Record]]]:
    """Video, dialogue and rounds, in either layout."""
    content = read_object(path)
    if path.name != _V01:
        for record in content.children("dialogs", "image_id"):
            yield record.text("image_id"), record, record.children("dialog")
        return
    for image_id in content.fields:  # in v0.1 the video's id is the key
        record = Record(path, f"dialogue {image_id!r:.40}", {"image_id": image_id})
        yield record.text("image_id"), record, content.child(image_id).children("data")


def _samples(image_id: str, turns: list[tuple[str, str]], size: int) -> list[Question]:
    chunks = [turns[start : start + size] for start in range(0, len(turns), size)]
    return [
        Question(f"{image_id}_{number}", chunk[-1][0], (chunk[-1][1],), tuple(chunk[:-1]))
        for number, chunk in enumerate(chunks)
    ]


def _last_turn(image_id: str, turns: list[tuple[str, str]]) -> Question:
    prompt, answer = turns[-1]
    answers = () if answer == _UNDISCLOSED else (answer,)
    return Question(image_id, prompt, answers, tuple(turns[:-1]))


def _captions(path: Path) -> dict[str, tuple[str, ...]]:
    """References by ``<image_id>_<index of the last round>``, from COCO captions."""
    content = read_object(path)
    names: dict[str, str] = {}
    captions: dict[str, tuple[str, ...]] = {}
    for image in content.children("images", "id"):
        if names.setdefault(image.identifier("id"), image.text("name")) in captions:
            raise image.refuse("another image has the same id or name")
        captions[image.text("name")] = ()
    for annotation in content.children("annotations", "image_id"):
        name = names.get(annotation.identifier("image_id"))
        if name is None:
            raise annotation.expected("image_id", "the id of one of the images")
        captions[name] += (annotation.text("caption"),)
    if bare := [name for name, references in captions.items() if not references]:
        raise content.refuse(f"image {bare[0]!r:.60} has no caption")
    return captions
