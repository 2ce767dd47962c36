"""Packs several questions about a video into one sequence: the video once, then branches.

A branch sees the prefix and itself. Its positions continue the prefix, so that every answer is
computed as if its question were alone.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from experiments.toyworld.questions import ToyQuestion
from experiments.toyworld.scene import COLOURS, SHAPES
from vlynx_pl.branch_attention import visible


class Packed(NamedTuple):
    """A batch of B sequences of length L."""

    ids: Tensor  # (B, L)
    mask: Tensor  # (B, 1, L, L) bool
    positions: Tensor  # (B, L)
    answers: Tensor  # (A, 2) sequence and index of the token before each supervised token
    targets: Tensor  # (A,) the supervised tokens
    first: Tensor  # (A,) bool, the first tokens of answers, which decide them
    kinds: list[str]  # of the questions
    names: Tensor  # (M, 2) sequence and index of tokens that name an object
    places: Tensor  # (M, 2) where that object is, mean over the frames
    things: Tensor  # (M, 2) its labels of colour and shape


@dataclass
class Packer:
    """Turns questions into sequences with the model's chat template."""

    tokenizer: PreTrainedTokenizerFast
    tokens_per_frame: int

    def __post_init__(self) -> None:
        """Tokenize what all sequences share."""
        message: Any = [{"role": "user", "content": "<video>\n@"}]
        template = self.tokenizer.apply_chat_template
        text = str(template(message, tokenize=False, add_generation_prompt=True))
        before, after = text.split("<video>")
        self.start = self._ids(before)
        self.around = [self._ids(part) for part in after.split("@")]
        self.video = self._ids("<video>")
        self.end = self._ids("<|im_end|>")
        self.named = {self._ids(f" {name}")[0] for name in (*COLOURS, *SHAPES)}
        self.branch = cache(self.branch)  # type: ignore[method-assign]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def branch(self, question: str, answer: str) -> tuple[list[int], int, tuple[int, ...]]:
        """Return token ids, index of the first answer token, and indices of names of objects."""
        # The question is tokenized as one text, as at inference.
        asked = self.around[0] + self._ids(question) + self.around[1]
        names = tuple(i for i, token in enumerate(asked) if token in self.named)
        return asked + self._ids(answer) + self.end, len(asked), names

    def pack(
        self,
        questions: list[list[ToyQuestion]],
        places: list[Tensor],
        things: list[Tensor],
        frames: int,
    ) -> Packed:
        """Return one sequence per video.

        Args:
            questions: B lists of questions.
            places: B tensors (T, K, 2), where the K objects are in the frames.
            things: B tensors (K, 2), labels of colour and shape of the objects.
            frames: T.
        """
        prefix = [*self.start, *self.video * (frames * self.tokens_per_frame + 1)]
        rows, answers, targets, first, kinds, names, where, what = [], [], [], [], [], [], [], []
        for row, asked in enumerate(questions):
            ids, segment, positions = list(prefix), [0] * len(prefix), list(range(len(prefix)))
            for number, question in enumerate(asked, 1):
                tokens, answer, named = self.branch(question.text, question.answer)
                offset = len(ids)
                ids += tokens
                segment += [number] * len(tokens)
                positions += range(len(prefix), len(prefix) + len(tokens))
                for index in range(answer, len(tokens)):
                    answers.append((row, offset + index - 1))
                    targets.append(tokens[index])
                    first.append(index == answer)
                kinds.append(question.kind)
                if len(named) == len(question.objects):
                    names += [(row, offset + index) for index in named]
                    where += [places[row][:, k].mean(0) for k in question.objects]
                    what += [things[row][k] for k in question.objects]
            rows.append((ids, segment, positions))
        length = max(len(ids) for ids, _, _ in rows)
        fills = (self.tokenizer.pad_token_id, -1, 0)
        ids, segment, positions = (
            torch.tensor([part + [fill] * (length - len(part)) for part in parts])
            for parts, fill in zip(zip(*rows, strict=True), fills, strict=True)
        )
        return Packed(
            ids,
            torch.cat([visible(row, length) for row in segment]),
            positions,
            torch.tensor(answers),
            torch.tensor(targets),
            torch.tensor(first),
            kinds,
            torch.tensor(names).view(-1, 2),
            torch.stack(where) if where else torch.zeros(0, 2),
            torch.stack(what) if what else torch.zeros(0, 2, dtype=torch.long),
        )


def draw(
    questions: list[ToyQuestion], weights: dict[str, float], count: int, random: np.random.Generator
) -> list[ToyQuestion]:
    """Draw questions about a scene: first a kind by weight, then a question of that kind."""
    by_kind: dict[str, list[ToyQuestion]] = {}
    for question in questions:
        by_kind.setdefault(question.kind, []).append(question)
    kinds = list(by_kind)
    share = np.array([weights[kind] for kind in kinds])
    drawn = random.choice(len(kinds), count, p=share / share.sum())
    return [by_kind[kinds[i]][random.integers(len(by_kind[kinds[i]]))] for i in drawn]
