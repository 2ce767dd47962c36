"""What the data modules of all modalities share: their interface, what is bad, and the loaders.

Two objectives. *Alignment* reads frames of the modality alone, unpaired and without text, and
plain video for the guidance. *Tuning* reads episodes: a clip's video, its modality, and all its
questions.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.benchmarks.base import Benchmark
from datamodules.frame_cache import FrameCache
from datamodules.inspection import Finding, inspect
from datamodules.loading import (
    Careful,
    EpisodeDataset,
    FrameDataset,
    Loader,
    collate,
    gather,
)
from datamodules.order import Batches, position, refuse_other_order
from datamodules.recordings import PARTS, Objective, Part, Recording, Recordings, stem
from datamodules.samples import (
    BadSample,
    Clip,
    Episode,
    LoadedEpisode,
    Question,
    Split,
    Streams,
)
from datamodules.splits import hold_out
from vlynx_pl.errors import UserError
from vlynx_pl.progress import track
from vlynx_pl.tensor_store import TokenStore

_MOST_NAMED = 20  # bad files in one message


class ModalityDataModule(LightningDataModule):
    """Batches of modality frames, and of plain video for the guidance, or of episodes.

    A modality implements :meth:`find`, :meth:`modality_clips` and :meth:`reference_clips` for
    alignment; :meth:`locate` and :meth:`streams` for tuning and for the splits of a benchmark.

    Args:
        root: folder of the data.
        benchmark: annotations whose splits say which media are for training; tuning needs one.
            Without it a fifth of what is in ``root`` is held out.
        held_out: share of the training clips that is held out where a benchmark has no val file.
        objective: ``alignment`` or ``tuning``.
        test_split: what ``vlynx test`` asks; ``val`` where the answers of ``test`` are kept back.
        reference_root: folder of other media for the reference videos: those of the benchmark's
            training clips, or else split by the same rule.
        frames: moments of a recording that are looked at; a modality says which.
        frame_size: (H, W) of the frames; the command line takes it from the backbone.
        batch_size: clips, or episodes, a step: all ranks share them.
        num_workers: processes that read, per loader and rank.
        seed: seed of the order of training and reference clips.
        timeout: how long a worker may take for a clip before it is given up, in s; 0 is forever.
        on_bad_sample: ``stop`` raises BadSample at the first file that cannot be used; of a small
            folder of videos, all are read before fitting, and all bad ones named. ``skip`` reads
            everything once before fitting and leaves out what cannot be used, of a clip whose
            questions are bad only those; ``bad_samples`` lists it with reasons. Nothing is ever
            put in its place.
        max_bad_share: with ``skip``, stop when more than this share of the recordings is bad.
        cache_dir: folder where frames are kept as uint8 once they are read (see FrameCache).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        benchmark: Benchmark | None = None,
        held_out: float = 0.2,
        objective: Objective = "alignment",
        test_split: Literal["test", "val"] = "test",
        reference_root: str | Path | None = None,
        frames: int = 20,
        frame_size: tuple[int, int] = (384, 384),
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        timeout: float = 600.0,
        on_bad_sample: Literal["stop", "skip"] = "stop",
        max_bad_share: float = 0.1,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        if objective == "tuning" and benchmark is None:
            raise UserError("objective=tuning needs questions; give data.benchmark")
        for name, given, least in (
            ("frames", frames, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if given < least:
                raise UserError(f"data.{name}={given} must be {least} or more")
        if not 0 < held_out < 1:
            raise UserError(f"data.held_out={held_out} must be between 0 and 1")
        self.root, self.benchmark, self.objective = Path(root), benchmark, objective
        self.test_split = test_split
        self.reference_root = None if reference_root is None else Path(reference_root)
        self.frames, self.frame_size = frames, frame_size
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.timeout = timeout
        self.on_bad_sample, self.max_bad_share = on_bad_sample, max_bad_share
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.bad_samples: list[BadSample] = []
        self._parts: dict[Part, list[Any]] = {}
        self._unusable: dict[Part, list[Episode]] = {}
        self.unfit: Callable[[Question, bool], str | None] | None = None
        """Why a question cannot be learnt (or asked, with False): set by who will ask it."""
        self._learning = True  # of questions; in a test they are asked only
        self._tokens: TokenStore | None = None
        self._unread: frozenset[str] = frozenset()
        self._start: dict[str, int] = {}  # epoch and batch that training begins with
        self._recordings = Recordings(
            self.root, self.reference_root, benchmark, objective, held_out, self.find, self.locate
        )

    @property
    def _few(self) -> int:
        """How many recordings are all read before fitting, so that every bad one is named."""
        return 0

    modalities: tuple[str, ...] = ()
    """Names of the streams that episodes have beside ``video``."""

    # Not abstract: a backbone's configuration sets the loaders before the modality is known.
    def find(self, root: Path) -> Mapping[Split, list[Any]]:
        """Sources of each split in a folder, without annotations; unread, with name and path.

        No recording is in two splits; see :func:`datamodules.splits.hold_out`.
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

    def locate(self, root: Path, episode: Episode) -> Any:
        """The source in a folder that an episode is about; raises BadSample if it is not there."""
        raise NotImplementedError(f"{type(self).__name__} knows no benchmarks")

    def streams(self, source: Any) -> Streams:
        """The video and the modality of a source, for an episode."""
        raise NotImplementedError(f"{type(self).__name__} has no episodes")

    def streams_of(self, files: Mapping[str, Path], modalities: Collection[str]) -> Streams:
        """The video and some modalities of files that no benchmark names.

        Args:
            files: ``video``, ``audio``, ``depth`` (the folder of a scene) or ``ego`` → path; those
                that are not needed are left alone.
            modalities: those to read.

        Raises:
            KeyError: one that is needed is missing.
            BadSample: one cannot be used.
        """
        raise UserError(f"{type(self).__name__} reads no files that a user names")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How frames are made, to be stored beside results; plain numbers and names."""
        return {"frames": self.frames, "frame_size": list(self.frame_size)}

    @property
    def drawing(self) -> dict[str, Any]:
        """Modality → the settings that its pictures are drawn with, on which stages must agree."""
        return {}

    @override
    def setup(self, stage: str) -> None:
        parts = PARTS[self.objective][stage]
        if parts == ("test",):
            parts = (self.test_split,)
        if all(part in self._parts for part in parts):
            return
        self._learning = stage != "test"
        skip = self.on_bad_sample == "skip"
        # Where few are none, they need not be counted: large annotations take seconds to list.
        few = self._few > 0 and sum(len(self._recordings.of(part)) for part in parts) <= self._few
        findings = self.inspect(parts, read=skip or few, stop=not (skip or few))
        if few:
            findings = self._hold_out_anew(findings)
        self._take_note(findings)
        for part in parts:
            usable = [item for f in findings if f.part == part for item in f.usable]
            if not usable:
                raise BadSample(
                    self.root,
                    f"leaves no {part} clip of {len({f.name for f in findings})} recordings"
                    + "".join(f"; the first bad one is {bad}" for bad in self.bad_samples[:1]),
                    "Give data.reference_root, a folder of videos"
                    if part == "reference"
                    else "Repair the files, or give a larger folder; one recording alone cannot be "
                    "trained on and held out",
                )
            self._parts[part] = usable
            if self.objective == "tuning":
                left_out = [f.left_out for f in findings if f.part == part]
                self._unusable[part] = [episode for episode in left_out if episode is not None]
        for doubt in self.doubts():
            rank_zero_warn(doubt)
        rank_zero_info(repr(self))
        for line in [*(f"skipped {bad}" for bad in self.bad_samples), *self.report()["left_out"]]:
            rank_zero_info(line)

    def inspect(
        self, parts: tuple[Part, ...], read: bool, stop: bool | None = None
    ) -> list[Finding]:
        """Look for all recordings of these parts.

        Args:
            parts: what to look for.
            read: decode everything, rather than what is needed to list the clips.
            stop: raise the first BadSample; None goes by ``on_bad_sample``.
        """
        recordings = self._recordings
        findings = inspect(
            [(part, recording) for part in parts for recording in recordings.of(part)],
            self._candidates,
            self.dataset if read else None,
            self.on_bad_sample == "stop" if stop is None else stop,
            f"Checking {self.root.name}",
            self.num_workers,
            self.timeout,
        )
        # A file of sound alone is not a reference video, and nothing is wrong with it.
        return [f for f in findings if f.part != "reference" or f.usable or f.bad]

    def parts(self) -> tuple[Part, ...]:
        """All parts that there may be: splits, and the reference videos of alignment."""
        return self._recordings.parts()

    def episodes(self, part: Part) -> list[Episode]:
        """The episodes of a part that can be used, in order, with the questions that can be."""
        return [episode for episode, _ in self._part(part)]

    def leave_unread(self, names: Collection[str]) -> None:
        """From now on episodes of these names come without streams; their files are not opened."""
        self._unread = frozenset(names)

    def unusable(self, part: Part) -> list[Episode]:
        """What was left out of a part, because the media or the questions of it are bad."""
        return self._unusable.get(part, [])

    def report(self) -> dict[str, list[str]]:
        """What was left out, each with its reason, for the report of a run."""
        skipped = [str(bad) for bad in self.bad_samples]
        return {"skipped": skipped, "left_out": self._recordings.left_out}

    def doubts(self, thorough: bool = False) -> list[str]:
        """What of the recordings found so far is readable and probably wrong all the same.

        Args:
            thorough: look at all of them, not only at a few.

        Returns:
            A message each, with a remedy.
        """
        return []

    def dataset(self, part: Part, usable: list[Any]) -> FrameDataset | EpisodeDataset:
        """What ``inspect`` found usable in a part, as a dataset."""
        if self.objective == "tuning":
            return self._episodes(usable, self._tokens, self._unread)
        kind = "reference" if part == "reference" else "modality"
        return FrameDataset(usable, self.frame_size, self._cache, kind)

    def keep_tokens(self, store: TokenStore) -> EpisodeDataset:
        """From now on do not read what a store has tokens of.

        Returns:
            What it does not hold of the parts set up so far.
        """
        self._tokens = store
        every = self._episodes([item for usable in self._parts.values() for item in usable])
        missing = [item for i, item in enumerate(every.episodes) if not store.holds(every.key(i))]
        return self._episodes(missing)

    def loaded(self, part: Part, names: Collection[str]) -> dict[str, LoadedEpisode]:
        """Frames of a part's episodes, by their names; those whose media are bad are absent."""
        chosen = self._episodes([item for item in self._parts[part] if item[0].name in names])
        episodes: dict[str, LoadedEpisode] = {}
        for index in track(range(len(chosen)), "Reading again"):
            with suppress(BadSample):
                episode = chosen[index]
                episodes[episode["name"]] = episode
        return episodes

    def _episodes(
        self, usable: list[Any], tokens: TokenStore | None = None, unread: Collection[str] = ()
    ) -> EpisodeDataset:
        settings, cache = self._settings, self._cache
        return EpisodeDataset(usable, self.frame_size, settings, cache, tokens, unread)

    @property
    def _settings(self) -> list[Any]:
        """What makes frames, and how."""
        kind = type(self)
        return [f"{kind.__module__}.{kind.__qualname__}", self.preprocessing]

    @property
    def _cache(self) -> FrameCache | None:
        return None if self.cache_dir is None else FrameCache(self.cache_dir, self._settings)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        start, self._start = self._start, {}
        return self._loader("train", seed=self.seed, **start)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.test_split if self.objective == "tuning" else "val")

    def reference_names(self) -> list[str]:
        """The reference clips in the order in which they are read, shuffled by ``seed``.

        So guidance from the first few hundred is unbiased.
        """
        if self.objective != "alignment":
            raise UserError(
                f"data.objective={self.objective} has no reference videos, which alignment needs; "
                "set it to alignment"
            )
        return [self._part("reference")[i].name for i in self._reference_order()]

    def reference_dataloader(self, positions: Sequence[int] | None = None) -> DataLoader[Any]:
        """Plain RGB video of the training media, one clip a batch, since their lengths differ.

        Args:
            positions: which of :meth:`reference_names`, in this order; None is this rank's share.
        """
        names, order = self.reference_names(), self._reference_order()
        if positions is None:
            rank, ranks = self._rank
            positions = range(rank, len(names), ranks)
        dataset = self.dataset("reference", [self._part("reference")[order[i]] for i in positions])
        return self._reader(dataset, Batches(len(dataset), 1))

    def _reference_order(self) -> list[int]:
        return [i for [i] in Batches(len(self._part("reference")), 1, seed=self.seed)]

    @override
    def state_dict(self) -> dict[str, Any]:
        """Where training is in the data, and in which order of which data."""
        assert self.trainer is not None
        return {"position": position(self.trainer), "order": self._order()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the middle of an epoch; raises UserError if the data or their order differ."""
        refuse_other_order(state_dict["order"], self._order())
        self._start = dict(state_dict["position"])

    def _order(self) -> dict[str, Any]:
        names = [_name(item) for item in self._part("train")]
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "preprocessing": json.loads(json.dumps(self.preprocessing)),
            "number of clips": len(names),
            "list of clips": hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16],
        }

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        if not isinstance(batch, list):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        # Lightning would take the questions apart, to look for tensors in them.
        return [
            episode
            | {
                kind: {name: stream.to(device) for name, stream in episode[kind].items()}
                for kind in ("streams", "tokens")
            }
            for episode in batch
        ]

    def __repr__(self) -> str:
        """Counts of what was found."""
        what = "clips" if self.objective == "alignment" else "episodes"
        counts = [f"{len(usable)} {part} {what}" for part, usable in self._parts.items()]
        counts.append(f"{len(self.bad_samples)} skipped")
        return f"{type(self).__name__}({self.root}: {', '.join(counts)})"

    def _candidates(self, part: Part, recording: Recording) -> tuple[list[Any], list[BadSample]]:
        source = recording.locate()
        if recording.episode is not None and self.objective == "tuning":
            episode, bad = self._fit(part, recording.episode)
            return [(episode, self.streams(source))] if episode.questions else [], bad
        if part == "reference":
            return list(self.reference_clips(source)), []
        return list(self.modality_clips(source)), []

    def _fit(self, part: Part, episode: Episode) -> tuple[Episode, list[BadSample]]:
        """An episode with the questions that can be used, and what is bad about the others."""
        if self.unfit is None or self.benchmark is None or part == "reference":
            return episode, []
        files = self.benchmark.files(part)
        path = files[0] if len(files) == 1 else self.benchmark.annotations
        learnt = self._learning and part != "test"
        reasons = {question.id: self.unfit(question, learnt) for question in episode.questions}
        remedy = "Correct the annotation, or leave the question out with data.on_bad_sample=skip"
        bad = [BadSample(path, reason, remedy, "question") for reason in reasons.values() if reason]
        questions = tuple(one for one in episode.questions if reasons[one.id] is None)
        return replace(episode, questions=questions), bad

    def _hold_out_anew(self, findings: list[Finding]) -> list[Finding]:
        """Where all that was held out of a folder is bad, hold out the last of what can be used."""
        train = [f for f in findings if f.part == "train" and f.usable]
        if self.benchmark or len(train) < 2 or any(f.part == "val" and f.usable for f in findings):
            return findings
        moved = {stem(f.name) for f in hold_out(train)[1]}
        reason = "is held out, since all that was is bad"
        self._recordings.left_out = [f"{f.name}: {reason}" for f in train if stem(f.name) in moved]
        return [
            replace(f, part="val") if f.part == "train" and stem(f.name) in moved else f
            for f in findings
            if f.part != "reference" or stem(f.name) not in moved
        ]

    def _take_note(self, findings: list[Finding]) -> None:
        """Keep what is bad, once each, and stop if it is too much."""
        bad = {str(bad): bad for finding in findings for bad in finding.bad}
        known = {str(bad) for bad in self.bad_samples}
        self.bad_samples += [bad[text] for text in bad if text not in known]
        troubled = {finding.name for finding in findings if finding.bad}
        every = {finding.name for finding in findings}
        share = len(troubled) / max(len(every), 1)
        if share <= (self.max_bad_share if self.on_bad_sample == "skip" else 0):
            return
        named = [f"\n  {one.path}: {one.reason}" for one in bad.values()][:_MOST_NAMED]
        rest = len(bad) - len(named)
        named += [f"\n  and {rest} more, which vlynx check --csv FILE lists"] * (rest > 0)
        lost = {f.part for f in findings} - {f.part for f in findings if f.usable}
        options = f"--data.on_bad_sample=skip --data.max_bad_share={ceil(100 * share) / 100:g}"
        remedy = (
            f"Repair them or add others; without them no {min(lost)} clip is left"
            if lost
            else f"To go on without them, add {options} (with make: ARGS='{options}')"
        )
        raise BadSample(
            self.root,
            f"has {len(troubled)} bad recordings of {len(every)}"
            + f", more than max_bad_share={self.max_bad_share:g}" * (self.on_bad_sample == "skip"),
            "".join([f"{remedy}. The bad ones:", *named]),
        )

    @property
    def _rank(self) -> tuple[int, int]:
        """This process and how many there are."""
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _part(self, part: Part) -> list[Any]:
        if part not in self._parts:
            raise RuntimeError(
                f"call {type(self).__name__}.setup('fit') before asking for {part} batches"
            )
        return self._parts[part]

    def _loader(self, part: Part, **order: Any) -> DataLoader[Any]:
        dataset = self.dataset(part, self._part(part))
        rank, ranks = self._rank
        batches = Batches(len(dataset), self.batch_size, rank=rank, ranks=ranks, **order)
        return self._reader(dataset, batches)

    def _reader(self, dataset: FrameDataset | EpisodeDataset, batches: Batches) -> DataLoader[Any]:
        stack = partial(collate, frame_size=self.frame_size)
        return Loader(
            Careful(dataset),
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=partial(gather, stack if self.objective == "alignment" else list),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            timeout=self.timeout if self.num_workers > 0 else 0,
        )


def _name(item: Any) -> str:
    """Of a clip, or of an episode with its streams."""
    name: str = item.name if isinstance(item, Clip) else item[0].name
    return name
