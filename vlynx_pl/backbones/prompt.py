"""The LLM's input: text and visual tokens, with their positions."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class Chat(NamedTuple):
    """The texts that a family puts around questions and answers."""

    opening: str  # before the streams
    asking: str  # between the streams and the first question
    user: str  # before each later question
    assistant: str  # between a question and its answer
    end: str  # after each question and answer
    stop: tuple[str, ...]  # tokens that end an answer
    answer: str = ""  # before each answer, and learnt with it


CHATML: Final = Chat(
    opening="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    asking="\n",
    user="<|im_start|>user\n",
    assistant="<|im_start|>assistant\n",
    end="<|im_end|>\n",
    stop=("<|im_end|>", "<|endoftext|>"),
)
"""ChatML as Qwen2's tokenizer writes it (method.md section 5.2).

It is not taken from the checkpoint: the template of LLaVA-OneVision's processor, which lacks the
system turn, would replace the tokenizer's.
"""


class Stream(NamedTuple):
    """A visual stream as the LLM reads it, all of its tokens or some."""

    tokens: Tensor  # (T, N, W), or (n, W) if only some are kept
    times: Sequence[float] = ()  # of the T frames in s; empty if they are unknown
    kept: Tensor | None = None  # (T, N) bool, where the n tokens were; None is all
    compact: bool = False  # kept tokens are counted like text, instead of keeping their positions
    label: str = ""  # text before it

    @property
    def grid(self) -> torch.Size:
        """(T, N), frames and tokens per frame, kept or not."""
        return self.tokens.shape[:2] if self.kept is None else self.kept.shape

    @property
    def rows(self) -> Tensor:
        """(n, W), the tokens in order."""
        return self.tokens.flatten(0, 1) if self.kept is None else self.tokens

    def frames(self) -> list[Self]:
        """Return each frame as a stream, without its time."""
        if self.kept is None:
            return [self._replace(tokens=frame[None], times=()) for frame in self.tokens]
        parts = self.tokens.split(self.kept.sum(1).tolist())
        return [
            self._replace(tokens=part, times=(), kept=kept)
            for part, kept in zip(parts, self.kept.split(1), strict=True)
        ]


class Block(NamedTuple):
    """Frames without text between them."""

    stream: Stream  # of F frames
    offsets: Sequence[int]  # of the F frames on the LLM's axis of time


class Prompt(NamedTuple):
    """Input of the LLM, or a part of it: P tokens, V of them visual."""

    embeddings: Tensor  # (P, D)
    positions: Tensor  # (A, P) long, on the CPU; 1 axis, or 3: time, height and width
    visual: Tensor  # (P,) bool, on the CPU
    deep: Tensor  # (J, V, D) added to the output of the first J layers of the LLM at visual tokens
    next: int  # where text goes on: 1 + the greatest position

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Concatenate parts, each of which begins where the one before ends."""
        return cls(
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.positions for part in parts], 1),
            torch.cat([part.visual for part in parts]),
            torch.cat([part.deep for part in parts], 1),
            parts[-1].next,
        )


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise a text without adding special tokens."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def grid_positions(start: int, offsets: Sequence[int], rows: int, columns: int) -> Tensor:
    """Positions of frames on the axes of time, height and width (M-RoPE, arXiv 2409.12191).

    Args:
        start: position of the first frame on all axes.
        offsets: F steps of each frame on the axis of time.
        rows: of a frame's tokens.
        columns: of a frame's tokens.

    Returns:
        (3, F · rows · columns) long.
    """
    axes = torch.tensor(offsets), torch.arange(rows), torch.arange(columns)
    return start + torch.cartesian_prod(*axes).T
