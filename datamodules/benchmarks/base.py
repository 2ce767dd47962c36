"""What all benchmarks share: official files in, one Episode per clip with all its questions out.

A benchmark also names its modality, the task to tune on, and the published rules for its scores.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple, TypeAlias, get_args

from datamodules.benchmarks.records import Record
from datamodules.media.paths import check_folder
from datamodules.samples import BadSample, Episode, Question, Split
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics.protocols import Protocol

SPLITS: Final[tuple[Split, ...]] = get_args(Split)
Names: TypeAlias = Mapping[Split, tuple[str, ...]]


class QuestionRecord(NamedTuple):
    """A question, its clip, and the record that it was read from.

    All questions with the same clip have the same media and span.
    """

    record: Record
    clip: str
    media: Mapping[str, str]
    question: Question
    span: tuple[float, float] | None = None
    elsewhere: Mapping[str, str] = MappingProxyType({})  # role → a second path


class Benchmark(ABC):
    """The official annotation files of a benchmark.

    Args:
        annotations: the folder of the files, with their official names.
    """

    modality: ClassVar[str] = ""
    """The stream, besides the video, that its questions are about."""

    tuned_on: ClassVar[str] = ""
    """The task to tune on, if it has no training split of its own."""

    protocol: ClassVar[Protocol | None] = None
    """How its answers are scored and submitted."""

    names: ClassVar[Names] = {}
    """The official files."""

    absent: ClassVar[str] = ""
    """Why a split has no files."""

    folders: ClassVar[tuple[str, ...]] = ()
    """Folders of a download from the hub that may hold the files."""

    media_folders: ClassVar[tuple[str, ...]] = ()
    """Folders of a download from the hub that may hold the media."""

    def __init__(self, annotations: str | Path) -> None:
        self.annotations = Path(annotations)

    def rules(self) -> Protocol:
        """How its answers are scored; raises UserError if it has no protocol."""
        return self.protocol or protocol_of(type(self).__name__)

    def files(self, split: Split) -> list[Path]:
        """The annotation files of a split, which need not exist; none if it has no such split."""
        return self.find(self.names.get(split, ()))

    def find(self, names: Sequence[str]) -> list[Path]:
        """Paths of files, in the first of the possible folders that has one of them."""
        places = [self.annotations, *(self.annotations / folder for folder in self.folders)]
        there = (place for place in places if any((place / name).exists() for name in names))
        place = next(there, self.annotations)
        return [place / name for name in names]

    @abstractmethod
    def read(self, split: Split, files: list[Path]) -> Iterable[QuestionRecord]:
        """Yield questions in the order of the split's files, which exist; raise BadSample."""

    def splits(self) -> list[Split]:
        """The splits whose files exist."""
        files = {split: self.files(split) for split in SPLITS}
        return [
            split for split in SPLITS if files[split] and all(f.is_file() for f in files[split])
        ]

    def episodes(self, split: Split) -> list[Episode]:
        """Each clip with all its questions, in the order of the files.

        Raises:
            BadSample: the split or one of its files is missing, or a record cannot be used.
        """
        name, files = type(self).__name__, self.files(split)
        if not files:
            there = ", ".join(other for other in SPLITS if self.files(other))
            raise BadSample(
                self.annotations,
                f"{name} has no split {split}: {self.absent}",
                f"Use {there}",
                "missing",
            )
        if missing := [path for path in files if not path.exists()]:
            path = missing[0]
            if path.parent.is_file():
                check_folder(path.parent, f"Give the folder that holds {path.name}")
            others = f", with {len(missing) - 1} more of {len(files)} files" * (len(missing) > 1)
            raise BadSample(
                path,
                f"is missing{others}; {name} reads its split {split} from it",
                "Download it, or point `annotations` to where it is",
                "missing",
            )
        return _group(self.read(split, files), self.media_folders)


def protocol_of(benchmark: str) -> Protocol:
    """How answers are scored, by the name of the benchmark's reader, such as ``ScanQA``.

    Raises:
        UserError: there is no such benchmark, or it has no protocol.
    """
    known = [reader.protocol for reader in readers().values() if reader.protocol is not None]
    protocols = {protocol.benchmark: protocol for protocol in known}
    if benchmark not in protocols:
        raise UserError(
            f"there are no scores for {benchmark!r:.60}; there are for "
            f"{', '.join(sorted(protocols))}. Any other benchmark must name one of these: "
            "InstructJSON by --data.benchmark.scored_as=ScanQA, a class of your own by "
            "protocol = ScanQA.protocol"
        )
    return protocols[benchmark]


def readers(of: type[Benchmark] = Benchmark) -> dict[str, type[Benchmark]]:
    """Every imported reader by name."""
    found: dict[str, type[Benchmark]] = {}
    for reader in of.__subclasses__():
        found |= {reader.__name__: reader} | readers(reader)
    return found


def validate_tasks(tasks: Sequence[str] | None, known: Iterable[str]) -> tuple[str, ...]:
    """The tasks to read, without repeats; raises ValueError for an unknown one."""
    names = tuple(known)
    if tasks is None:
        return names
    if not tasks or set(tasks) - set(names):
        raise ValueError(f"tasks={list(tasks)}; give some of {', '.join(names)}, or null")
    return tuple(dict.fromkeys(tasks))


class UniqueIds:
    """Makes repeated ids unique: ``7``, ``7#2``, ``7#3``."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def name(self, identifier: str) -> str:
        """The id, numbered from its second occurrence on."""
        self._seen[identifier] += 1
        count = self._seen[identifier]
        return identifier if count == 1 else f"{identifier}#{count}"


def _group(asked: Iterable[QuestionRecord], folders: Sequence[str]) -> list[Episode]:
    clips: dict[str, list[QuestionRecord]] = {}
    ids: set[str] = set()
    for item in asked:
        if item.question.id in ids:
            raise item.record.refuse(f"another question has the same id {item.question.id!r:.60}")
        ids.add(item.question.id)
        clips.setdefault(item.clip, []).append(item)
    return [
        Episode(
            name,
            dict(items[0].media),
            tuple(item.question for item in items),
            items[0].span,
            _elsewhere(items[0], folders),
        )
        for name, items in clips.items()
    ]


def _elsewhere(asked: QuestionRecord, folders: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Role → the paths beyond the first at which a medium may be."""
    further = {}
    for role, first in asked.media.items():
        paths = [first, *([asked.elsewhere[role]] if role in asked.elsewhere else [])]
        paths += [f"{folder}/{path}" for folder in folders for path in paths]
        further[role] = tuple(paths[1:])
    return further
