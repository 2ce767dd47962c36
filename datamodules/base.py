"""What the data modules of all modalities share: what there is, what is bad, and the loaders.

Two objectives. *Alignment* reads frames of the modality alone, unpaired and without text, and
plain video for the guidance. *Tuning* reads episodes: a clip's video, its modality, and all its
questions.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from typing_extensions import override

from datamodules.benchmarks.base import Benchmark
from datamodules.frame_cache import FrameCache
from datamodules.loading import EpisodeDataset, FrameDataset, collate
from datamodules.samples import BadSample, Clip, Episode, Split, Streams
from datamodules.splits import hold_out

Objective = Literal["alignment", "tuning"]
Part = Literal["train", "val", "test", "reference"]
Usable = list[Clip] | list[tuple[Episode, Streams]]

PARTS: Final[dict[Objective, dict[str, tuple[Part, ...]]]] = {
    "alignment": {"fit": ("train", "val", "reference"), "validate": ("val",), "test": ("val",)},
    "tuning": {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)},
}
"""What each stage of an objective reads."""


class Recording(NamedTuple):
    """A file, a scene or a take that should be there, named by an annotation or found."""

    name: str
    locate: Callable[[], Any]  # gives what the modality calls a source, or raises BadSample
    episode: Episode | None = None


@dataclass
class Finding:
    """What became of a recording."""

    part: Part
    name: str
    usable: list[Any] = field(default_factory=list)
    bad: list[BadSample] = field(default_factory=list)


class ModalityDataModule(LightningDataModule):
    """Batches of modality frames, and of plain video for the guidance, or of episodes.

    A modality implements :meth:`find`, :meth:`modality_clips` and :meth:`reference_clips` for
    alignment; :meth:`locate` and :meth:`streams` for tuning and for the splits of a benchmark.

    Args:
        root: folder of the data.
        benchmark: annotations whose splits say which media are for training; tuning needs one.
            Without it a fifth of what is in ``root`` is held out.
        objective: ``alignment`` or ``tuning``.
        reference_root: folder of other media for the reference videos, split by the same rule.
        frames: moments of a recording that are looked at; a modality says which.
        frame_size: (H, W) of the frames; the command line takes it from the backbone.
        batch_size: clips, or episodes, a batch.
        num_workers: processes that read, per loader.
        seed: seed of the order of training and reference clips.
        on_bad_sample: ``stop`` raises BadSample at the first file that cannot be used. ``skip``
            reads everything once before fitting and leaves out what cannot be used;
            ``bad_samples`` lists it with reasons. Nothing is ever put in its place.
        max_bad_share: with ``skip``, stop when more than this share of the recordings is bad.
        cache_dir: folder where frames are kept as uint8 once they are read (see FrameCache).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        benchmark: Benchmark | None = None,
        objective: Objective = "alignment",
        reference_root: str | Path | None = None,
        frames: int = 20,
        frame_size: tuple[int, int] = (384, 384),
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        on_bad_sample: Literal["stop", "skip"] = "stop",
        max_bad_share: float = 0.1,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        if objective == "tuning" and benchmark is None:
            raise ValueError("objective=tuning needs questions; give data.benchmark")
        if frames < 1:
            raise ValueError(f"frames={frames} must be 1 or more")
        self.root, self.benchmark, self.objective = Path(root), benchmark, objective
        self.reference_root = None if reference_root is None else Path(reference_root)
        self.frames, self.frame_size = frames, frame_size
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.on_bad_sample, self.max_bad_share = on_bad_sample, max_bad_share
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.bad_samples: list[BadSample] = []
        self._parts: dict[Part, list[Any]] = {}
        self._asked: dict[Split, list[Episode]] = {}

    # Not abstract: a backbone's configuration sets the loaders before the modality is known.
    def find(self, root: Path, split: Split) -> list[Any]:
        """The sources in ``root``, without annotations; each has a ``name`` and a ``path``.

        ``train`` and ``val`` share no recording; see :func:`hold_out`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is no modality; add --config experiments/align/<modality>.yaml"
        )

    def modality_clips(self, source: Any) -> list[Clip]:
        """Clips of modality frames of a source; pictures may be left unread."""
        raise NotImplementedError(f"{type(self).__name__} draws no modality")

    def reference_clips(self, source: Any) -> list[Clip]:
        """Clips of plain RGB video of a source; pictures may be left unread."""
        raise NotImplementedError(f"{type(self).__name__} has no RGB video")

    def locate(self, episode: Episode) -> Any:
        """The source that an episode is about; raises BadSample if it is not there."""
        raise NotImplementedError(f"{type(self).__name__} knows no benchmarks")

    def streams(self, source: Any) -> Streams:
        """The video and the modality of a source, for an episode."""
        raise NotImplementedError(f"{type(self).__name__} has no episodes")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How frames are made, to be stored beside results; plain numbers and names."""
        return {"frames": self.frames, "frame_size": list(self.frame_size)}

    @override
    def setup(self, stage: str) -> None:
        parts = PARTS[self.objective][stage]
        if all(part in self._parts for part in parts):
            return
        findings = self.inspect(parts, read=self.on_bad_sample == "skip")
        self._take_note(findings)
        for part in parts:
            usable = [item for f in findings if f.part == part for item in f.usable]
            if not usable:
                raise BadSample(
                    self.root,
                    f"leaves no {part} clip; {len(self.bad_samples)} were skipped"
                    + "".join(f", the first because {bad}" for bad in self.bad_samples[:1]),
                    "Repair the files, or give a larger folder",
                )
            self._parts[part] = usable
        rank_zero_info(repr(self))
        for bad in self.bad_samples:
            rank_zero_info(f"skipped {bad}")

    def inspect(
        self, parts: tuple[Part, ...], read: bool, stop: bool | None = None
    ) -> list[Finding]:
        """Look for all recordings of these parts.

        Threads wait for the files, since most time goes to the disk and to decoding.

        Args:
            parts: what to look for.
            read: decode everything, rather than what is needed to list the clips.
            stop: raise the first BadSample; None goes by ``on_bad_sample``.
        """
        stop = self.on_bad_sample == "stop" if stop is None else stop
        jobs = [(part, recording) for part in parts for recording in self._recordings(part)]
        findings = []
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(self._inspect, *job, read) for job in jobs]
            for outcome in track(waiting, f"Checking {self.root.name}", transient=True):
                finding = outcome.result()
                if finding.bad and stop:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise finding.bad[0]
                findings.append(finding)
        return findings

    def parts(self) -> tuple[Part, ...]:
        """All parts that there are: splits, and the reference videos of alignment."""
        splits: list[Part] = ["train", "val", "test"]
        if self.benchmark is not None:
            splits = [*self.benchmark.splits()]
            if "train" in splits and "val" not in splits:
                splits.insert(1, "val")
        return (*splits, "reference") if self.objective == "alignment" else (*splits,)

    def report(self) -> dict[str, list[str]]:
        """What was left out, each with its reason, for the report of a run."""
        return {"skipped": [str(bad) for bad in self.bad_samples]}

    def dataset(self, part: Part, usable: list[Any]) -> FrameDataset | EpisodeDataset:
        """What ``inspect`` found usable in a part, as a dataset."""
        cache = self.cache_dir and FrameCache(self.cache_dir, self.preprocessing)
        if self.objective == "tuning":
            return EpisodeDataset(usable, self.frame_size, cache or None)
        kind = "reference" if part == "reference" else "modality"
        return FrameDataset(usable, self.frame_size, cache or None, kind)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val", self.batch_size, shuffle=False)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        part: Part = "test" if self.objective == "tuning" else "val"
        return self._loader(part, self.batch_size, shuffle=False)

    def reference_dataloader(self) -> DataLoader[Any]:
        """Plain RGB video of the training media, one clip a batch, since their lengths differ.

        The order is shuffled, so that guidance from the first few hundred clips is unbiased.
        """
        return self._loader("reference", 1, shuffle=True)

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        if not isinstance(batch, list):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        # Lightning would take the questions apart, to look for tensors in them.
        return [
            episode | {"streams": {k: s.to(device) for k, s in episode["streams"].items()}}
            for episode in batch
        ]

    def __repr__(self) -> str:
        """Counts of what was found."""
        what = "clips" if self.objective == "alignment" else "episodes"
        counts = [f"{len(usable)} {part} {what}" for part, usable in self._parts.items()]
        counts.append(f"{len(self.bad_samples)} skipped")
        return f"{type(self).__name__}({self.root}: {', '.join(counts)})"

    def _recordings(self, part: Part) -> Iterator[Recording]:
        """What there should be."""
        if part == "reference":
            yield from self._references()
        elif self.benchmark is None:
            for source in self.find(self.root, part):
                yield Recording(source.name, partial(_same, source))
        else:
            seen = set()
            for episode in self._episodes(self.benchmark, part):
                # Alignment asks nothing: a medium that two episodes are about is one recording.
                medium = (*episode.media.items(), episode.span)
                if self.objective == "tuning" or medium not in seen:
                    yield Recording(episode.name, partial(self.locate, episode), episode)
                seen.add(medium)

    def _episodes(self, benchmark: Benchmark, split: Split) -> list[Episode]:
        """Episodes of a split; a benchmark without val file holds out a fifth of its train file."""
        given = benchmark.splits()
        if "val" in given or "train" not in given or split == "test":
            return self._read(benchmark, split)
        train, val = hold_out(self._read(benchmark, "train"))
        return train if split == "train" else val

    def _read(self, benchmark: Benchmark, split: Split) -> list[Episode]:
        """Episodes of a split, read once: large annotation files take seconds."""
        if split not in self._asked:
            self._asked[split] = benchmark.episodes(split)
        return self._asked[split]

    def _references(self) -> Iterator[Recording]:
        if self.reference_root is None:
            yield from self._recordings("train")
            return
        held_out = [part for part in self.parts() if part in {"val", "test"}]
        kept_back = {place for part in held_out for place in _places(self._recordings(part))}
        kept_back -= _places(self._recordings("train"))
        for source in self.find(self.reference_root, "train"):
            if source.path.resolve() in kept_back:
                raise BadSample(
                    source.path,
                    f"would be a reference video, but {self.root} does not train on it",
                    "Leave reference_root out, or split it as that folder",
                )
            yield Recording(source.name, partial(_same, source))

    def _inspect(self, part: Part, recording: Recording, read: bool) -> Finding:
        finding = Finding(part, recording.name)
        try:
            candidates = self._candidates(part, recording)
        except BadSample as bad:
            finding.bad.append(bad)
            return finding
        dataset = self.dataset(part, candidates)
        for index, candidate in enumerate(candidates):
            try:
                if read:
                    dataset[index]
                finding.usable.append(candidate)
            except BadSample as bad:
                finding.bad.append(bad)
        return finding

    def _candidates(self, part: Part, recording: Recording) -> list[Any]:
        source = recording.locate()
        if self.objective == "tuning":
            return [(recording.episode, self.streams(source))]
        if part == "reference":
            return list(self.reference_clips(source))
        return list(self.modality_clips(source))

    def _take_note(self, findings: list[Finding]) -> None:
        """Keep what is bad, once each, and stop if it is too much."""
        known = {str(bad) for bad in self.bad_samples}
        for bad in (bad for finding in findings for bad in finding.bad):
            if str(bad) not in known:
                self.bad_samples.append(bad)
                known.add(str(bad))
        troubled = {f.name for f in findings if f.bad}
        every = {f.name for f in findings}
        if len(troubled) > self.max_bad_share * len(every):
            raise BadSample(
                self.root,
                f"has {len(troubled)} bad recordings of {len(every)}, more than "
                f"max_bad_share={self.max_bad_share:g}; the first is bad because "
                f"{self.bad_samples[0]}",
                "Repair the files (vlynx check lists them), or raise data.max_bad_share",
            )

    def _loader(self, part: Part, batch_size: int, shuffle: bool) -> DataLoader[Any]:
        if part not in self._parts:
            raise RuntimeError(
                f"call {type(self).__name__}.setup('fit') before asking for {part} batches"
            )
        dataset = self.dataset(part, self._parts[part])
        # A generator of its own: the order depends on the seed alone, not on the workers.
        generator = torch.Generator().manual_seed(self.seed)
        sampler = (
            RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        )
        return DataLoader(
            dataset,
            batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate if self.objective == "alignment" else list,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def _same(source: Any) -> Any:
    return source


def _places(recordings: Iterator[Recording]) -> set[Path]:
    """Where recordings lie; what is not there is no place, and is reported with its part."""
    places = set()
    for recording in recordings:
        with suppress(BadSample):
            places.add(recording.locate().path.resolve())
    return places
