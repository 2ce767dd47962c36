"""The instruct JSON that LLaVA introduced and converters of most benchmarks write.

``[{"id": ..., "video": ..., "conversations": [{"from": "human", "value": "<image>\\n..."},
{"from": "gpt", "value": ...}, ...]}]``
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from typing_extensions import override

from datamodules.benchmarks.base import Benchmark, QuestionRecord, UniqueIds, protocol_of
from datamodules.benchmarks.records import Record, read_records
from datamodules.samples import Question, Split
from vlynx_pl.metrics.protocols import Protocol

_PLACEHOLDERS: Final = ("<image>", "<video>")


class InstructJSON(Benchmark):
    """One instruct JSON, such as PAVE's, as the training split of any benchmark.

    A conversation of several turns is one question with a history. Repeated ids (PAVE's MUSIC-AVQA
    has its audio questions twice) become ``<id>#2``, ``<id>#3``.

    Args:
        annotations: the JSON file.
        role: the role of its field ``video``, such as ``video``, or ``scene`` for ScanNet.
        scored_as: the benchmark of its questions, such as ``ScanQA``; tuning needs it.
    """

    absent = "an instruct JSON is for training"

    def __init__(
        self, annotations: str | Path, role: str = "video", scored_as: str | None = None
    ) -> None:
        super().__init__(annotations)
        self.role = role
        self.scored_as = scored_as or type(self).__name__

    def rules(self) -> Protocol:
        return protocol_of(self.scored_as)

    @override
    def files(self, split: Split) -> list[Path]:
        return [self.annotations] if split == "train" else []

    @override
    def read(self, split: Split, files: list[Path]) -> Iterator[QuestionRecord]:
        yield from conversations(files, self.role)


def conversations(
    paths: Iterable[Path], role: str, most_per_id: int | None = None, folder: str | None = None
) -> Iterator[QuestionRecord]:
    """The conversations of instruct JSONs.

    Args:
        paths: the files.
        role: the role of their field ``video``.
        most_per_id: the number of records to read per id and file; None reads all.
        folder: the field that names the folder of the video, if any.
    """
    ids = UniqueIds()
    for path in paths:
        taken: Counter[str] = Counter()
        for record in read_records(path, "id"):
            identifier = record.identifier("id")
            taken[identifier] += 1
            if most_per_id is not None and taken[identifier] > most_per_id:
                continue
            *history, (prompt, answer) = _turns(record)
            question = Question(ids.name(identifier), prompt, (answer,), tuple(history))
            name = record.media("video")
            if folder is not None:
                name = f"{record.media(folder)}/{name}"
            yield QuestionRecord(record, name, {role: name}, question)


def _turns(record: Record) -> list[tuple[str, str]]:
    """(question, answer) of each turn, without the placeholder of the video."""
    spoken = record.children("conversations")
    if len(spoken) % 2:
        raise record.expected("conversations", "turns of human and gpt in pairs")
    for number, message in enumerate(spoken):
        message.one_of("from", ("gpt",) if number % 2 else ("human",))
    texts = [message.text("value") for message in spoken]
    for placeholder in _PLACEHOLDERS:
        if placeholder in texts[0]:
            texts[0] = texts[0].replace(placeholder, "", 1).strip()
            break
    if not texts[0] or any(word in text for text in texts for word in _PLACEHOLDERS):
        raise record.refuse("conversations should ask about one <image>, in the first question")
    return list(zip(texts[::2], texts[1::2], strict=True))
