"""The expected recordings of each part, from annotations or from a folder.

What is held out is never used for training or for the guidance.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from datamodules.benchmarks.base import Benchmark
from datamodules.modalities.modality import Modality
from datamodules.samples import BadSample, Episode, Split
from datamodules.splits import hold_out

Part = Literal["train", "val", "test", "reference"]


@dataclass(frozen=True)
class Expected:
    """A file, a scene or a take that should be there."""

    name: str
    root: Path  # where it is looked for
    episode: Episode | None = None  # if an annotation names it
    source: Any = None  # if it was found in a folder


@dataclass
class BenchmarkRecordings:
    """The clips of a benchmark's splits, each listed once with all its questions.

    Args:
        root: folder of the media.
        benchmark: says which media are in which split.
        held_out: share of training clips that is held out if the benchmark has no val file.
    """

    root: Path
    benchmark: Benchmark | None
    held_out: float
    left_out: list[str] = field(default_factory=list)
    """Training media that are not used because they are held out."""
    _read: dict[Split, list[Episode]] = field(default_factory=dict)

    def parts(self) -> tuple[Part, ...]:
        """All parts that this data may have."""
        splits: list[Part] = [*self._given]
        if "train" in splits and "val" not in splits:
            splits.insert(1, "val")
        return tuple(splits)

    def of(self, part: Part) -> list[Expected]:
        """The recordings of a part.

        Raises:
            BadSample: annotations are missing or cannot be used, or a folder is empty.
        """
        return [Expected(e.name, self.root, e) for e in self.episodes(part)]

    def episodes(self, part: Part) -> list[Episode]:
        """Episodes of a split; without a val file, part of the train file is held out."""
        assert part != "reference"
        if "val" in self._given or "train" not in self._given or part == "test":
            return self._of_files(part)
        train, val = hold_out(self._of_files("train"), self.held_out)
        return train if part == "train" else val

    @cached_property
    def _given(self) -> list[Split]:
        """The benchmark's splits; finding their files can mean searching a large folder."""
        return [] if self.benchmark is None else self.benchmark.splits()

    def _of_files(self, split: Split) -> list[Episode]:
        assert self.benchmark is not None
        if split not in self._read:  # large annotation files take seconds
            self._read[split] = self.benchmark.episodes(split)
        return self._read[split]


@dataclass(kw_only=True)
class UnpairedRecordings(BenchmarkRecordings):
    """Each medium once, however many questions it has, and the reference videos.

    Args:
        modality: finds the media of a folder if there is no benchmark.
        reference_root: another folder for the reference videos.
    """

    modality: Modality
    reference_root: Path | None
    _found: dict[Path, Mapping[Split, list[Any]]] = field(default_factory=dict)

    @override
    def parts(self) -> tuple[Part, ...]:
        splits = ("train", "val", "test") if self.benchmark is None else super().parts()
        return (*splits, "reference") if "train" in splits else splits

    @override
    def of(self, part: Part) -> list[Expected]:
        if part == "reference":
            return list(self._references())
        if self.benchmark is None:
            return self._in_folder(self.root, part)
        once: dict[Any, Episode] = {}
        for episode in self.episodes(part):
            once.setdefault((_medium(episode), episode.span), episode)
        episodes = list(once.values())
        if part == "train":
            episodes = self._without_held_out(episodes)
        return [Expected(e.name, self.root, e) for e in episodes]

    def _references(self) -> Iterator[Expected]:
        if self.reference_root is None:
            yield from self.of("train")
        elif self.benchmark is not None:
            for recording in self.of("train"):
                yield Expected(recording.name, self.reference_root, recording.episode)
        else:
            held_out = [*self._in_folder(self.root, "val"), *self._in_folder(self.root, "test")]
            kept_back = {stem(recording.name) for recording in held_out}
            for recording in self._in_folder(self.reference_root, "train"):
                if stem(recording.name) in kept_back:
                    raise BadSample(
                        recording.source.path,
                        f"would be a reference video, but {self.root} holds it out",
                        "Leave reference_root out, or split it like that folder",
                    )
                yield recording

    def _in_folder(self, root: Path, split: Split) -> list[Expected]:
        if root not in self._found:
            self._found[root] = self.modality.find(root)
        return [Expected(s.name, root, source=s) for s in self._found[root].get(split, [])]

    def _without_held_out(self, episodes: list[Episode]) -> list[Episode]:
        splits = [split for split in self.parts() if split in {"val", "test"}]
        held_out = {_medium(e) for split in splits for e in self.episodes(split)}
        shared = [episode.name for episode in episodes if _medium(episode) in held_out]
        self.left_out = [f"{name}: is in val or test as well as in train" for name in shared]
        return [episode for episode in episodes if _medium(episode) not in held_out]


def _medium(episode: Episode) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(episode.media.items()))


def stem(name: str) -> str:
    """The name of a recording without its suffix, which a video and its sound share."""
    return name.rsplit(".", 1)[0]
