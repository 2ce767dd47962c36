"""What a training step needs of a GPU, whether it fits, and which settings make it fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, product
from typing import Any, Final, NamedTuple

from vlynx_pl.commands.plan.costs import Cost, Line
from vlynx_pl.flops import PEAK_FLOPS
from vlynx_pl.memory import STATES, fitting


class Gpu(NamedTuple):
    """A GPU: the memory that programs can use, and its speed."""

    gib: float
    peak: float  # FLOP/s


GPUS: Final = {
    "H200": Gpu(139.8, PEAK_FLOPS["NVIDIA H200"]),
    "H100": Gpu(79.1, PEAK_FLOPS["NVIDIA H100 80GB HBM3"]),
    "A100-80GB": Gpu(79.1, PEAK_FLOPS["NVIDIA A100-SXM4-80GB"]),
    "A100-40GB": Gpu(39.4, PEAK_FLOPS["NVIDIA A100-SXM4-40GB"]),
    "L40S": Gpu(44.4, PEAK_FLOPS["NVIDIA L40S"]),
    "RTX-4090": Gpu(23.5, PEAK_FLOPS["NVIDIA GeForce RTX 4090"]),
    "RTX-3090": Gpu(23.6, PEAK_FLOPS["NVIDIA GeForce RTX 3090"]),
}
CUDA: Final = 2**29
"""Bytes that CUDA takes for itself."""


@dataclass(frozen=True)
class Vision:
    """The vision encoder in a step.

    Args:
        frames: of each call for a clip.
        each: cost of a frame.
        output: bytes of a frame's tokens, which outlive its chunk.
        trained: whether it is trained.
    """

    frames: tuple[int, ...]
    each: Cost
    output: int
    trained: bool

    def peak(self, calls: Sequence[int], chunk: int | None) -> float:
        """Bytes at the peak of calls with so many frames each."""
        kept_whole = self.trained and not self._recomputes(calls, chunk)
        live = sum(calls) if kept_whole else min(chunk or max(calls), max(calls))
        return live * self.each.peak + self.trained * sum(calls) * self.output

    def flops(self, calls: Sequence[int], chunk: int | None) -> float:
        """FLOP of calls with so many frames each."""
        again = self.each.forward if self._recomputes(calls, chunk) else 0
        return sum(calls) * (self.each.flops + again)

    def _recomputes(self, calls: Sequence[int], chunk: int | None) -> bool:
        """Whether the backward pass computes the forward pass again."""
        return self.trained and chunk is not None and chunk < max(calls)


@dataclass(frozen=True)
class Llm:
    """The LLM in a step.

    Args:
        tokens: of a clip's sequence.
        lines: costs up to as many tokens, for ``checkpointing`` true and false.
    """

    tokens: int
    lines: Mapping[bool, Line]

    def kept(self, checkpointing: bool) -> float:
        """Bytes that autograd keeps of a sequence."""
        return self.tokens * self.lines[checkpointing].each.kept

    def recomputed(self, checkpointing: bool) -> float:
        """Further bytes in the backward pass of a sequence."""
        each = self.lines[checkpointing].each
        return self.tokens * (each.peak - each.kept)


class Fit(NamedTuple):
    """A training step on a GPU."""

    frame_chunk: int | None
    checkpointing: bool
    peak: float  # bytes
    flops: float


@dataclass(frozen=True)
class Plan:
    """What a process of a run needs.

    Args:
        weights: bytes of the frozen model.
        trained: number of trained parameters, which are float32.
        rest: bytes of other tensors that do not depend on the batch.
        visions: the vision encoder, frozen, trained, or both.
        llm: None in alignment.
        clips: per step, over all processes.
        ranks: number of processes.
        epochs: of the run.
        frame_chunk: ``model.frame_chunk``.
        checkpointing: ``model.checkpointing``.
        disk: what a run may keep on disk → bytes for each clip, or for all.
        at_once: maximum frames at once where the encoder is frozen.
    """

    weights: int
    trained: int
    rest: float
    visions: tuple[Vision, ...]
    llm: Llm | None
    clips: int
    ranks: int
    epochs: int
    frame_chunk: int | str | None
    checkpointing: bool | str
    disk: Mapping[str, int]
    at_once: int

    @property
    def share(self) -> int:
        """Clips of a process in a step."""
        return math.ceil(self.clips / self.ranks)

    def calls(self, vision: Vision) -> tuple[int, ...]:
        """Return the frames of each call of the vision encoder in a step."""
        calls = vision.frames * self.share
        return (sum(calls),) if self.llm is None else calls  # alignment encodes all clips at once

    def fixed(self) -> dict[str, float]:
        """Bytes that do not depend on the batch."""
        return {
            "frozen weights": self.weights,
            "adapters": 4 * self.trained,
            "gradients and AdamW": STATES * self.trained,
            "guidance and others": self.rest,
        }

    def fit(self, gib: float) -> Fit:
        """Choose what is ``auto`` as training does, with so many GiB."""
        free = int(gib * 2**30) - CUDA - self.weights - 4 * self.trained
        kept = again = flops = 0.0
        checkpointing = False
        if (llm := self.llm) is not None:
            checkpointing = self.checkpointing is True
            if self.checkpointing == "auto":
                fits = fitting(free, self.trained, int(llm.lines[False].each.kept))
                checkpointing = self.share * llm.tokens > fits
            kept, again = self.share * llm.kept(checkpointing), llm.recomputed(checkpointing)
            flops = self.share * llm.lines[checkpointing].flops
        peaks = [again]
        chunk = None if self.frame_chunk == "auto" else self.frame_chunk
        assert not isinstance(chunk, str)
        for vision in self.visions:
            calls = self.calls(vision)
            if vision.trained and self.frame_chunk == "auto":
                fits = max(1, fitting(free - int(kept), self.trained, int(vision.each.kept)))
                chunk = None if sum(calls) <= fits else max(1, fits // len(calls))
            used = chunk if vision.trained else min(chunk or self.at_once, self.at_once)
            peaks.append(vision.peak(calls, used))
            flops += vision.flops(calls, used)
        return Fit(chunk, checkpointing, sum(self.fixed().values()) + kept + max(peaks), flops)


def fits(plan: Plan, gpu: Gpu) -> bool:
    """Whether a step needs no more than the GPU's memory."""
    return plan.fit(gpu.gib).peak + CUDA <= gpu.gib * 2**30


def remedies(plan: Plan, gpu: Gpu) -> list[str]:
    """Return settings that make a plan fit, a smaller batch only if the others are not enough.

    There are none if the plan fits already, or if all of them are not enough.
    """
    changes: dict[str, dict[str, Any]] = {  # the last resort first
        f"data.batch_size={plan.ranks}": {"clips": plan.ranks},
        "model.frame_chunk=1": {"frame_chunk": 1},
        "model.checkpointing=true": {"checkpointing": True},
    }
    for used in product((False, True), repeat=len(changes)):
        chosen = list(compress(changes, used))
        changed = {name: value for one in chosen for name, value in changes[one].items()}
        if fits(replace(plan, **changed), gpu):
            return chosen[::-1]
    return []
