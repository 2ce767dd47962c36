"""A clip as a run reads it, kept so that further questions about it need neither frames nor prefix.

Everything here that computes is called in the one thread of the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vlynx_pl.answering import (
    NextToken,
    SharedCache,
    continued,
    logprob,
    prompt_ids,
    stop_ids,
)
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.io.errors import UserError
from vlynx_pl.questions import Question
from vlynx_pl.stream_tokens import EncodedClip
from vlynx_pl.tuning import InstructionTuning


class ClipFrames(NamedTuple):
    """What was read of a clip."""

    streams: Mapping[str, Tensor]  # uint8 (T, 3, H, W) on the CPU, ``video`` first
    times: Mapping[str, tuple[float, ...]]  # U timestamps in s each, of T / U frames
    doubts: tuple[str, ...] = ()  # what is readable but probably wrong


class Said(NamedTuple):
    """A token of an answer."""

    token: NextToken
    word: str  # its own text
    text: str  # of the answer so far


class Sample(NamedTuple):
    """A clip that is there without an upload."""

    questions: tuple[Question, ...]
    read: Callable[[], ClipFrames]


@dataclass(frozen=True)
class ServedRun:
    """A tuned run that answers.

    Args:
        name: by which clients ask for it.
        module: its model, in eval mode.
        read: reads a clip's files, (folder, kind → file), in a process that may be lost; raises
            UserError.
        samples: name → clip.
    """

    name: str
    module: InstructionTuning
    read: Callable[[Path, Mapping[str, Path]], ClipFrames]
    samples: Mapping[str, Sample]

    @cached_property
    def stop(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        return stop_ids(self.module.backbone)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self.module.backbone.tokenizer.decode([*ids], skip_special_tokens=True))


class Session:
    """A clip with what a run made of it so far.

    Args:
        run: that reads it.
        frames: of the clip.
    """

    def __init__(self, run: ServedRun, frames: ClipFrames) -> None:
        self.run, self.frames = run, frames
        self.nbytes = sum(pixels.nbytes for pixels in frames.streams.values())
        """Bytes that it holds."""
        self._caches: dict[frozenset[str], SharedCache] = {}

    @cached_property
    def clip(self) -> EncodedClip:
        """The encoded clip."""
        module, (streams, times, _) = self.run.module, self.frames
        frames = {name: pixels.to(module.device) for name, pixels in streams.items()}
        found = module.encoded_clip({"streams": frames, "times": times})
        self.nbytes += sum(each.nbytes for each in found.encoded.values())
        return EncodedClip({"times": times}, found.encoded)

    @torch.inference_mode()
    def tokens(self, without: frozenset[str] = frozenset()) -> list[Stream]:
        """What the LLM reads of the clip, without some streams.

        Raises:
            UserError: a stream cannot be left out.
        """
        streams = self.run.module.streams
        for name in sorted(without):
            if name not in streams.sources or not streams.can_leave_out(name):
                free = ", ".join(filter(streams.can_leave_out, streams.sources)) or "none"
                raise UserError(f"without {name!r:.40}: of {self.run.name}, {free} can be left out")
        if len(without) == len(streams.sources):
            raise UserError("without every stream there is nothing to ask about; leave one in")
        if not without:
            return streams.tokens(self.clip.encoded, self.clip.episode)
        return streams.without(without, self.clip)

    def _prompt(self, question: Question) -> list[int]:
        """The token ids of a question; raises UserError if it cannot be put into a prompt."""
        module = self.run.module
        ids = prompt_ids(module.backbone, question)
        if len(ids) > module.question_budget:
            raise UserError(
                f"the question has {len(ids)} tokens; {self.run.name} reads "
                f"{module.question_budget}. Shorten it, or its dialogue"
            )
        return ids

    def answer(self, question: Question, without: frozenset[str], longest: int) -> Iterator[Said]:
        """Answer a question, token by token, at least one.

        Args:
            question: about the clip.
            without: streams that are left out.
            longest: most tokens of the answer.

        Raises:
            UserError: a stream cannot be left out, or the question cannot be put into a prompt.
        """
        prompt, ids = self._prompt(question), list[int]()
        with self._prefix(without) as cache:
            for step in continued(cache, [prompt], longest, 1, self.run.stop):
                ids.append(step[1].id)
                yield Said(step[1], self.run.decode(ids[-1:]), self.run.decode(ids).strip())

    def logprob(self, question: Question, without: frozenset[str], answer: Sequence[int]) -> float:
        """The log-probability of an answer's tokens, without some streams."""
        with self._prefix(without) as cache:
            return logprob(cache, self._prompt(question), answer)

    def prompt_tokens(self, question: Question, without: frozenset[str]) -> int:
        """Tokens before the answer."""
        with self._prefix(without) as cache:
            return cache.prefix + len(self._prompt(question))

    @contextmanager
    def _prefix(self, without: frozenset[str]) -> Iterator[SharedCache]:
        """The cache of the clip without some streams; what is asked in the block is forgotten."""
        if without not in self._caches:
            module = self.run.module
            made = SharedCache(module.backbone, self.tokens(without), module.task)
            self._caches[without] = made
            self.nbytes += made.nbytes
        try:
            yield self._caches[without]
        finally:
            self._caches[without].forget()
