"""The data module: connects modalities, an objective and Lightning's loaders."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader
from typing_extensions import override

from datamodules.loading.bad_samples import hold_out_anew, once_each, refuse_too_many
from datamodules.loading.inspection import Finding, inspect
from datamodules.loading.loader import Loader, SampleDataset, collate_or_error
from datamodules.loading.order import Batches, position, refuse_other_order
from datamodules.loading.recordings import Part
from datamodules.loading.serving import SERVING, Alignment, Tuning
from datamodules.loading.settings import LoadingSettings
from datamodules.modalities.installed import modality_named
from datamodules.modalities.modality import FrameSpec, Modalities, Modality
from datamodules.samples import BadSample, Clip, Episode, LoadedEpisode, Streams
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.progress import track
from vlynx_pl.io.tensor_store import TokenStore


@dataclass(eq=False, repr=False)
class ModalityDataModule(LoadingSettings, LightningDataModule):
    """Batches for alignment or for tuning.

    *Alignment* reads frames of one modality, unpaired and without text, and plain video for the
    guidance. *Tuning* reads episodes: a clip's video, its modalities, and all its questions.

    Args:
        modalities: one for alignment; for tuning one or several of the same clips. Each is a class
            with its settings, or a name that ``vlynx modalities`` lists. The RGB stream is that of
            the first.
    """

    kind: ClassVar[type[Modality] | None] = None
    """The class of the only modality; its settings are then fields of the data module."""
    modalities: Sequence[Modality | str] = ()

    def __post_init__(self) -> None:
        LightningDataModule.__init__(self)
        super().__post_init__()
        if self.kind is not None:
            shared = {one.name for one in fields(LoadingSettings)}
            own = {one.name for one in fields(self.kind) if one.init} - shared
            self.modalities = [self.kind(**{name: getattr(self, name) for name in own})]
        named = (modality_named(m) if isinstance(m, str) else m for m in self.modalities)
        spec = FrameSpec(self.frames, self.frame_size)
        self.joined = Modalities(tuple(named), Path(self.root), spec)
        self.modalities = self.joined.each
        self.serving = SERVING[self.objective](self.joined, self)
        self.bad_samples: list[BadSample] = []
        self._parts: dict[Part, list[Any]] = {}
        self._findings: dict[Part, list[Finding]] = {}
        self._start: dict[str, int] = {}  # epoch and batch that training begins with

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Everything that the frames depend on, for the record of a run; numbers and names."""
        return self.joined.preprocessing

    @property
    def rendering_settings(self) -> dict[str, Any]:
        """Modality → the part of its settings that alignment and tuning must have in common."""
        return self.joined.rendering_settings

    @override
    def setup(self, stage: str) -> None:
        parts, recordings = self.serving.parts(stage), self.serving.recordings
        if all(part in self._parts for part in parts):
            return
        skip = self.on_bad_sample == "skip"
        # Large annotations take seconds to list, so count recordings only where it matters.
        most = 0 if self.benchmark else self.joined.each[0].small_folder
        few = most > 0 and sum(len(recordings.of(part)) for part in parts) <= most
        findings = self.inspect(parts, read=skip or few, learnt=stage != "test")
        if few:
            findings, moved = hold_out_anew(findings)
            recordings.left_out += moved
        known = {str(bad) for bad in self.bad_samples}
        self.bad_samples += [b for text, b in once_each(findings).items() if text not in known]
        refuse_too_many(findings, self)
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
            self._findings[part] = [f for f in findings if f.part == part]
        for doubt in self.joined.doubts():
            rank_zero_warn(doubt)
        rank_zero_info(repr(self))
        for line in [*(f"skipped {bad}" for bad in self.bad_samples), *self.report()["left_out"]]:
            rank_zero_info(line)

    def inspect(self, parts: tuple[Part, ...], read: bool, learnt: bool = True) -> list[Finding]:
        """Look for all recordings of these parts.

        Args:
            parts: what to look for.
            read: decode everything and list all that is bad; otherwise only list the clips, and
                raise the first BadSample.
            learnt: whether questions are learnt, or only asked.
        """
        recordings = self.serving.recordings
        jobs = [(part, recording) for part in parts for recording in recordings.of(part)]
        findings = inspect(jobs, self.serving, self, read, learnt)
        # A file with sound only is not a reference video, but nothing is wrong with it.
        return [f for f in findings if f.part != "reference" or f.usable or f.bad]

    def report(self) -> dict[str, list[str]]:
        """What was left out, each with its reason, for the report of a run."""
        skipped = [str(bad) for bad in self.bad_samples]
        left_out = self.serving.recordings.left_out
        return {"skipped": skipped, "left_out": left_out} | self.joined.report()

    def episodes(self, part: Part) -> list[Episode]:
        """The usable episodes of a part, in order, with their usable questions."""
        return [item.episode for item in self._part(part)]

    def skip_streams_for(self, names: Collection[str]) -> None:
        """Return episodes of these names without streams, and do not open their files."""
        self._tuning.unread = frozenset(names)

    def clips(self, part: Part) -> list[Clip]:
        """The usable clips of a part, in alignment; for ``reference``, of plain video."""
        return list(self._part(part))

    def pairs(self, part: Part) -> dict[str, Streams]:
        """Recording → its modality with its own video, for usable recordings, in alignment.

        Raises:
            UserError: the modality cannot be read with a video.
        """
        assert isinstance(self.serving, Alignment)
        usable = {f.name for f in self._findings.get(part, []) if f.usable}
        expected = [one for one in self.serving.recordings.of(part) if one.name in usable]
        return {one.name: self.serving.streams(one) for one in expected}

    def failed_episodes(self, part: Part) -> list[Episode]:
        """What was left out of a part because its media or questions are bad."""
        return [f.left_out for f in self._findings.get(part, []) if f.left_out]

    def keep_tokens(self, store: TokenStore) -> SampleDataset:
        """Do not read clips whose tokens are in a store.

        Returns:
            The clips of the parts set up so far that are not in the store.
        """
        every = [item for items in self._parts.values() for item in items]
        return self._tuning.keep_tokens(store, every)

    def episode_batches(self, part: Part, names: Sequence[str]) -> DataLoader[Any]:
        """The named episodes of a part, in this order, one per batch; a name may be repeated."""
        items = {item.name: item for item in self._part(part)}
        chosen = [items[name] for name in names]
        return self._batches_of(part, chosen, Batches(len(chosen), 1))

    def loaded(self, part: Part, names: Collection[str]) -> dict[str, LoadedEpisode]:
        """Frames of the named episodes of a part; those with bad media are absent."""
        read = self._tuning.frame_reader()
        chosen = [item for item in self._parts[part] if item.name in names]
        episodes: dict[str, LoadedEpisode] = {}
        for item in track(chosen, "Reading again"):
            with suppress(BadSample):
                episodes[item.name] = read(item)
        return episodes

    @property
    def _tuning(self) -> Tuning:
        assert isinstance(self.serving, Tuning)
        return self.serving

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        start, self._start = self._start, {}
        return self._loader("train", seed=self.seed, **start)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(*self.serving.parts("test"))

    def reference_names(self) -> list[str]:
        """The reference clips in the order in which they are read.

        It is shuffled by ``seed``, so that guidance from the first few hundred is unbiased.
        """
        if "reference" not in self.serving.parts("fit"):
            raise UserError(
                f"data.objective={self.objective} has no reference videos, which alignment needs; "
                "set it to alignment"
            )
        return [self._part("reference")[i].name for i in self._reference_order()]

    def reference_dataloader(self, positions: Sequence[int] | None = None) -> DataLoader[Any]:
        """Plain RGB video of the training media, one clip per batch, since their lengths differ.

        Args:
            positions: of the clips in :meth:`reference_names`; None is this rank's share.
        """
        names, order = self.reference_names(), self._reference_order()
        if positions is None:
            rank, ranks = self._rank
            positions = range(rank, len(names), ranks)
        items = [self._part("reference")[order[i]] for i in positions]
        return self._batches_of("reference", items, Batches(len(items), 1))

    def _reference_order(self) -> list[int]:
        return [i for [i] in Batches(len(self._part("reference")), 1, seed=self.seed)]

    @override
    def state_dict(self) -> dict[str, Any]:
        """The position of training in the data, and what determines their order."""
        assert self.trainer is not None
        return {"position": position(self.trainer), "order": self._order()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue within an epoch; raises UserError if the data or their order differ."""
        refuse_other_order(state_dict["order"], self._order())
        self._start = dict(state_dict["position"])

    def _order(self) -> dict[str, Any]:
        names = [item.name for item in self._part("train")]
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
        # Lightning would search the questions for tensors, and rebuild them.
        return [
            episode
            | {
                kind: {name: stream.to(device) for name, stream in episode[kind].items()}
                for kind in ("streams", "tokens")
            }
            for episode in batch
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root}: {self.found})"

    @property
    def found(self) -> str:
        """What was found of each part, in numbers."""
        kind = self.serving.kind
        counts = [f"{len(usable)} {part} {kind}" for part, usable in self._parts.items()]
        found = ", ".join([*counts, f"{len(self.bad_samples)} skipped"])
        for what, lines in self.joined.report().items():
            reasons = Counter(line.split(": ", 1)[1] for line in lines)
            named = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            found += f"; {what.replace('_', ' ')}: {named or 'none'}"
        return found

    @property
    def _rank(self) -> tuple[int, int]:
        """This process rank and the number of processes."""
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _part(self, part: Part) -> list[Any]:
        if part not in self._parts:
            raise RuntimeError(
                f"call {type(self).__name__}.setup('fit') before asking for {part} batches"
            )
        return self._parts[part]

    def _loader(self, part: Part, **order: Any) -> DataLoader[Any]:
        items, (rank, ranks) = self._part(part), self._rank
        batches = Batches(len(items), self.batch_size, rank=rank, ranks=ranks, **order)
        return self._batches_of(part, items, batches)

    def _batches_of(self, part: Part, items: list[Any], batches: Batches) -> DataLoader[Any]:
        return Loader(
            SampleDataset(items, self.serving.reader(part)),
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=partial(collate_or_error, self.serving.batch),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            timeout=self.timeout,
        )
