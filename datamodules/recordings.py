"""What there should be: the recordings of each part, as annotations name them or as they are found.

Nothing that is held out is ever trained on or used for the guidance.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from datamodules.benchmarks.base import Benchmark
from datamodules.samples import BadSample, Episode, Split
from datamodules.splits import hold_out

Objective = Literal["alignment", "tuning"]
Part = Literal["train", "val", "test", "reference"]

PARTS: Final[Mapping[Objective, Mapping[str, tuple[Part, ...]]]] = {
    "alignment": {"fit": ("train", "val", "reference"), "validate": ("val",), "test": ("val",)},
    "tuning": {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)},
}
"""What each stage of an objective reads."""


class Recording(NamedTuple):
    """A file, a scene or a take that should be there."""

    name: str
    locate: Callable[[], Any]  # gives what the modality calls a source, or raises BadSample
    episode: Episode | None = None


@dataclass
class Recordings:
    """The recordings of each part, listed once.

    Args:
        root: folder of the data.
        reference_root: folder of other media for the reference videos.
        benchmark: says which media are for training.
        objective: alignment takes a medium once, however many questions it has.
        held_out: share of training clips that is held out, where the benchmark has no val file.
        find: sources of a folder by split.
        locate: the source of an episode in a folder.
    """

    root: Path
    reference_root: Path | None
    benchmark: Benchmark | None
    objective: Objective
    held_out: float
    find: Callable[[Path], Mapping[Split, list[Any]]]
    locate: Callable[[Path, Episode], Any]
    left_out: list[str] = field(default_factory=list)
    """Training media that are held out, and so not used for alignment."""
    _found: dict[Path, Mapping[Split, list[Any]]] = field(default_factory=dict)
    _asked: dict[Split, list[Episode]] = field(default_factory=dict)

    def parts(self) -> tuple[Part, ...]:
        """All parts that there may be: splits, and the reference videos of alignment."""
        splits: list[Part] = ["train", "val", "test"]
        if self.benchmark is not None:
            splits = [*self._given]
            if "train" in splits and "val" not in splits:
                splits.insert(1, "val")
        if self.objective == "alignment" and "train" in splits:
            splits.append("reference")
        return tuple(splits)

    def of(self, part: Part) -> list[Recording]:
        """The recordings of a part.

        Raises:
            BadSample: annotations are missing or cannot be used, or a folder holds nothing.
        """
        if part == "reference":
            return list(self._references())
        if self.benchmark is None:
            return [_found(source) for source in self._find(self.root).get(part, [])]
        episodes = self._episodes(self.benchmark, part)
        if self.objective == "alignment":
            once: dict[Any, Episode] = {}
            for episode in episodes:
                once.setdefault((_medium(episode), episode.span), episode)
            episodes = list(once.values())
            if part == "train":
                episodes = self._without_held_out(self.benchmark, episodes)
        return [self._named(episode, self.root) for episode in episodes]

    def _references(self) -> Iterator[Recording]:
        if self.reference_root is None:
            yield from self.of("train")
        elif self.benchmark is not None:
            for recording in self.of("train"):
                assert recording.episode is not None
                yield self._named(recording.episode, self.reference_root)
        else:
            here = self._find(self.root)
            kept_back = {stem(s.name) for split in ("val", "test") for s in here.get(split, [])}
            for source in self._find(self.reference_root).get("train", []):
                if stem(source.name) in kept_back:
                    raise BadSample(
                        source.path,
                        f"would be a reference video, but {self.root} holds it out",
                        "Leave reference_root out, or split it as that folder",
                    )
                yield _found(source)

    def _named(self, episode: Episode, root: Path) -> Recording:
        return Recording(episode.name, partial(self.locate, root, episode), episode)

    def _find(self, root: Path) -> Mapping[Split, list[Any]]:
        if root not in self._found:
            self._found[root] = self.find(root)
        return self._found[root]

    def _without_held_out(self, benchmark: Benchmark, episodes: list[Episode]) -> list[Episode]:
        splits = [split for split in self.parts() if split in {"val", "test"}]
        held_out = {_medium(e) for split in splits for e in self._episodes(benchmark, split)}
        shared = [episode.name for episode in episodes if _medium(episode) in held_out]
        self.left_out = [f"{name}: is in val or test as well as in train" for name in shared]
        return [episode for episode in episodes if _medium(episode) not in held_out]

    def _episodes(self, benchmark: Benchmark, split: Part) -> list[Episode]:
        """Episodes of a split; a benchmark without val file holds out a part of its train file."""
        assert split != "reference"
        given = self._given
        if "val" in given or "train" not in given or split == "test":
            return self._read(benchmark, split)
        train, val = hold_out(self._read(benchmark, "train"), self.held_out)
        return train if split == "train" else val

    @cached_property
    def _given(self) -> list[Split]:
        """The benchmark's splits; looking for their files can mean searching a large folder."""
        return [] if self.benchmark is None else self.benchmark.splits()

    def _read(self, benchmark: Benchmark, split: Split) -> list[Episode]:
        if split not in self._asked:  # large annotation files take seconds
            self._asked[split] = benchmark.episodes(split)
        return self._asked[split]


def _found(source: Any) -> Recording:
    return Recording(source.name, partial(_same, source))


def _same(source: Any) -> Any:
    return source


def _medium(episode: Episode) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(episode.media.items()))


def stem(name: str) -> str:
    """The name of a recording without its suffix: a video and its sound share one."""
    return name.rsplit(".", 1)[0]
