"""The settings that all data modules share."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Literal

from datamodules.benchmarks.base import Benchmark
from datamodules.samples import Question
from vlynx_pl.io.errors import UserError

Objective = Literal["alignment", "tuning"]


@dataclass(eq=False, repr=False)
class LoadingSettings:
    """What is read, how it is split and batched, and what happens to bad samples.

    Args:
        root: folder of the data.
        benchmark: annotations whose splits say which media are for training; tuning needs one.
            Without it, a fifth of the recordings in ``root`` is held out.
        held_out: share of the training clips that is held out if a benchmark has no val file.
        objective: ``alignment`` or ``tuning``.
        test_split: what ``vlynx test`` asks; ``val`` if the answers of ``test`` are withheld.
        reference_root: another folder for the reference videos: those of the benchmark's training
            clips; without a benchmark it is split by the same rule.
        frames: timestamps per recording; the modality chooses them.
        frame_size: (H, W) of the frames; the command line takes it from the backbone.
        batch_size: clips or episodes per step, over all ranks.
        num_workers: processes that read, per loader and rank.
        seed: of the order of training and reference clips.
        timeout: time in s that a worker may take for a clip before the run fails; 0 is forever.
        on_bad_sample: ``stop`` raises BadSample at the first file that cannot be used; a small
            folder of videos is read completely before fitting, and the error names all bad ones.
            ``skip`` reads everything once before fitting, leaves out bad clips and bad questions,
            and lists them with reasons in ``bad_samples``. Bad samples are never replaced.
        max_bad_share: with ``skip``, stop when more than this share of the recordings is bad.
        cache_dir: folder of a cache of decoded frames (see FrameCache).

    Raises:
        UserError: a number is out of range.
    """

    root: str | Path
    _: KW_ONLY
    benchmark: Benchmark | None = None
    held_out: float = 0.2
    objective: Objective = "alignment"
    test_split: Literal["test", "val"] = "test"
    reference_root: str | Path | None = None
    frames: int = 20
    frame_size: tuple[int, int] = (384, 384)
    batch_size: int = 8
    num_workers: int = 4
    seed: int = 0
    timeout: float = 600.0
    on_bad_sample: Literal["stop", "skip"] = "stop"
    max_bad_share: float = 0.1
    cache_dir: str | Path | None = None
    unfit: Callable[[Question, bool], str | None] | None = field(default=None, init=False)
    """(question, learnt) → why it cannot be learnt, or else asked; the command line sets it."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("batch_size", 1), ("num_workers", 0)):
            if (given := getattr(self, name)) < least:
                raise UserError(f"data.{name}={given} must be {least} or more")
        if not 0 < self.held_out < 1:
            raise UserError(f"data.held_out={self.held_out} must be between 0 and 1")
