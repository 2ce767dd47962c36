"""What the data modules of all modalities share: three loaders and a policy for bad samples."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize
from typing_extensions import override

from datamodules.samples import BadSample, Clip, FrameBatch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class AlignmentClips:
    """What a modality offers for alignment."""

    train: list[Clip]  # modality frames
    val: list[Clip]  # modality frames of held-out media
    reference: list[Clip]  # plain RGB video of training media


class FrameDataset(Dataset[tuple[Tensor, str]]):
    """Frames of a clip, uint8 (T, 3, H, W), and its name.

    Frames are squashed to ``frame_size`` (H, W) by antialiased bicubic interpolation, as
    transformers' ``LlavaOnevisionVideoProcessor`` does.
    """

    def __init__(self, clips: list[Clip], frame_size: tuple[int, int]) -> None:
        self.clips, self.frame_size = clips, frame_size

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.clips)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        clip = self.clips[index]
        size, bicubic = list(self.frame_size), InterpolationMode.BICUBIC
        return resize(clip.read(), size, bicubic, antialias=True), clip.name


def collate(samples: list[tuple[Tensor, str]]) -> FrameBatch:
    """Stack clips of one length into a batch."""
    frames, names = zip(*samples, strict=True)
    return {"frames": torch.stack(frames), "clips": list(names)}


class ModalityDataModule(LightningDataModule):
    """Batches of modality frames, and of plain video for the guidance.

    Args:
        root: folder of the data.
        frame_size: (H, W) of the frames; the command line takes it from the backbone.
        batch_size: clips a batch.
        num_workers: processes that read, per loader.
        seed: seed of the order of training and reference clips.
        on_bad_sample: ``stop`` raises BadSample at the first file that cannot be used. ``skip``
            reads everything once before fitting and leaves out what cannot be used;
            ``bad_samples`` lists it with reasons. Nothing is ever put in its place.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        frame_size: tuple[int, int] = (384, 384),
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        on_bad_sample: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.frame_size = frame_size
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.on_bad_sample = on_bad_sample
        self.bad_samples: list[BadSample] = []
        self._clips: AlignmentClips | None = None

    # Not abstract: a backbone's configuration sets the loaders before the modality is known.
    def find_clips(self) -> AlignmentClips:
        """List the clips; files may be left unread. A modality implements this."""
        raise NotImplementedError(
            f"{type(self).__name__} is no modality; add --config experiments/align/<modality>.yaml"
        )

    @property
    def clips(self) -> AlignmentClips:
        """The clips found by ``setup``."""
        if self._clips is None:
            raise RuntimeError(f"call {type(self).__name__}.setup('fit') before asking for clips")
        return self._clips

    @override
    def setup(self, stage: str) -> None:
        if self._clips is not None:
            return
        clips = self.find_clips()
        if self.on_bad_sample == "skip":
            readable = {f.name: self.usable(_read, getattr(clips, f.name)) for f in fields(clips)}
            clips = replace(clips, **readable)
        for part in fields(clips):
            if not getattr(clips, part.name):
                raise BadSample(
                    self.root,
                    f"leaves no {part.name} clip; {len(self.bad_samples)} were skipped"
                    + "".join(f", the first because {bad}" for bad in self.bad_samples[:1]),
                    "Repair the files, or give a larger folder",
                )
        self._clips = clips
        rank_zero_info(repr(self))
        for bad in self.bad_samples:
            rank_zero_info(f"skipped {bad}")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How frames are made, to be stored beside results; plain numbers and names."""
        return {"frame_size": list(self.frame_size)}

    def report(self) -> dict[str, list[str]]:
        """What was left out, each with its reason, for the report of a run."""
        return {"skipped": [str(bad) for bad in self.bad_samples]}

    def usable(self, use: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Results of ``use`` for all items, in order; what raises BadSample goes by policy.

        Files are waited for in threads, since most time goes to the disk and to decoding.
        """
        results = []
        with ThreadPoolExecutor() as pool:
            waiting = [pool.submit(use, item) for item in items]
            for outcome in track(waiting, f"Checking {self.root.name}", transient=True):
                try:
                    results.append(outcome.result())
                except BadSample as bad:
                    if self.on_bad_sample == "stop":
                        pool.shutdown(wait=False, cancel_futures=True)
                        raise
                    self.bad_samples.append(bad)
        return results

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, str]]:
        return self._loader(self.clips.train, self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, str]]:
        return self._loader(self.clips.val, self.batch_size, shuffle=False)

    def reference_dataloader(self) -> DataLoader[tuple[Tensor, str]]:
        """Plain RGB video of the training media, one clip a batch, since their lengths differ.

        The order is shuffled, so that guidance from the first few hundred clips is unbiased.
        """
        return self._loader(self.clips.reference, 1, shuffle=True)

    def _loader(
        self, clips: list[Clip], batch_size: int, shuffle: bool
    ) -> DataLoader[tuple[Tensor, str]]:
        dataset = FrameDataset(clips, self.frame_size)
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
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def _read(clip: Clip) -> Clip:
    clip.read()
    return clip
