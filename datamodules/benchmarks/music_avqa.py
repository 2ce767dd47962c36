"""MUSIC-AVQA: questions from templates about one-minute videos of musical performances."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, Literal

from typing_extensions import override

from datamodules.benchmarks.base import SPLITS, Benchmark, Names, QuestionRecord, UniqueIds
from datamodules.benchmarks.records import Record, read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics import named_answers, protocols, submissions
from vlynx_pl.metrics.protocols import Protocol, verdicts

_SLOT: Final = re.compile(r"<[^<>]+>")
_REAL: Final = "MUSIC-AVQA-videos-Real/{}.mp4"
_SYNTHETIC: Final = "MUCIS-AVQA-videos-Synthetic/{}.mp4"  # sic


class MusicAVQA(Benchmark):
    """MUSIC-AVQA's ``avqa-{train,val,test}.json``, of ``json`` or the cleaned ``json_update``.

    The paper's 9.1k test questions are those of ``json_update``. Labels are ``modality`` (Audio,
    Visual, Audio-Visual) and ``type`` (Counting, Location, ...). Repeated ids, which some official
    files have, become ``<id>#2``.

    Args:
        annotations: the folder of the files, with their official names.
        duplicate_audio: whether training repeats every question whose modality contains Audio, as
            in PAVE and the paper.
        videos: ``official`` for the two folders in which videos are distributed (ids of real ones
            begin with a digit), ``flat`` for all videos in one.
    """

    modality = "audio"
    protocol = Protocol(
        "MusicAVQA",
        "music_avqa",
        protocols.music_avqa,
        verdicts(named_answers.contains_lower),
        submissions.music_rows,
    )
    names: ClassVar[Names] = {split: (f"avqa-{split}.json",) for split in SPLITS}

    def __init__(
        self,
        annotations: str | Path,
        duplicate_audio: bool = False,
        videos: Literal["official", "flat"] = "official",
    ) -> None:
        super().__init__(annotations)
        self.duplicate_audio, self.videos = duplicate_audio, videos

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        ids = UniqueIds()
        for record in read_records(files[0], "question_id"):
            kind = record.texts_within("type")
            if len(kind) != 2:
                raise record.expected("type", "a modality and a type")
            copies = 1 + (split == "train" and self.duplicate_audio and "Audio" in kind[0])
            for _ in range(copies):
                question = Question(
                    id=ids.name(record.identifier("question_id")),
                    prompt=_filled(record),
                    answers=(record.text("anser"),),  # sic
                    labels={"modality": kind[0], "type": kind[1]},
                )
                yield QuestionRecord(record, record.text("video_id"), self._media(record), question)

    def _media(self, record: Record) -> dict[str, str]:
        if self.videos == "flat":
            return {"video": record.media("video_id", "{}.mp4")}
        real = record.text("video_id")[0] in "0123456789"
        return {"video": record.media("video_id", _REAL if real else _SYNTHETIC)}


def _filled(record: Record) -> str:
    """The question with the n-th ``<slot>`` replaced by the n-th value."""
    template, values = record.text("question_content"), record.texts_within("templ_values")
    slots = len(_SLOT.findall(template))
    if slots != len(values):
        raise record.expected("templ_values", f"{slots} values, one per slot of {template!r:.120}")
    remaining = iter(values)
    return _SLOT.sub(lambda _: next(remaining), template)
