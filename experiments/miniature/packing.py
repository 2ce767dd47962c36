"""Packs several questions about a video into one sequence: the video once, then branches.

A branch sees the prefix and itself. Its positions continue the prefix, so that every answer is
computed as if its question were alone.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerFast

from experiments.toyworld.questions import ToyQuestion
from experiments.toyworld.scene import COLOURS, SHAPES
from vlynx_pl.backbones.prompt import Chat, Prompt, token_ids
from vlynx_pl.branch_attention import visible


class Packed(NamedTuple):
    """Questions about B videos, which follow a prefix of P tokens: L tokens for each video."""

    ids: Tensor  # (B, L)
    mask: Tensor  # (B, 1, P + L, P + L) bool
    positions: Tensor  # (B, L)
    answers: Tensor  # (A, 2) sequence and index, from the prefix on, before each supervised token
    targets: Tensor  # (A,) the supervised tokens
    first: Tensor  # (A,) bool, the first tokens of answers, which decide them
    kinds: list[str]  # of the questions
    names: Tensor  # (M, 2) sequence and index of tokens that name an object
    places: Tensor  # (M, 2) where that object is, mean over the frames
    things: Tensor  # (M, 2) its labels of colour and shape


@dataclass
class Packer:
    """Turns questions into sequences with a family's chat marks."""

    tokenizer: PreTrainedTokenizerFast
    chat: Chat

    def __post_init__(self) -> None:
        """Tokenize what all questions share."""
        chat = self.chat
        self.around = [self._ids(chat.asking), self._ids(f"{chat.end}{chat.assistant}")]
        self.end = self._ids(chat.stop[0])
        self.named = {self._ids(f" {name}")[0] for name in (*COLOURS, *SHAPES)}
        self.branch = cache(self.branch)  # type: ignore[method-assign]

    def _ids(self, text: str) -> list[int]:
        return token_ids(self.tokenizer, text)

    def branch(self, question: str, answer: str) -> tuple[list[int], int, tuple[int, ...]]:
        """Return token ids, index of the first answer token, and indices of names of objects."""
        asked = self.around[0] + self._ids(question) + self.around[1]
        names = tuple(i for i, token in enumerate(asked) if token in self.named)
        return asked + self._ids(answer) + self.end, len(asked), names

    def pack(
        self,
        prefix: Prompt,
        questions: list[list[ToyQuestion]],
        places: list[Tensor],
        things: list[Tensor],
    ) -> Packed:
        """Return one sequence per video.

        Args:
            prefix: of any of the videos.
            questions: B lists of questions.
            places: B tensors (T, K, 2), where the K objects are in the frames.
            things: B tensors (K, 2), labels of colour and shape of the objects.
        """
        start = len(prefix.visual)
        rows, answers, targets, first, kinds, names, where, what = [], [], [], [], [], [], [], []
        for row, asked in enumerate(questions):
            ids: list[int] = []
            segment: list[int] = []
            positions: list[int] = []
            for number, question in enumerate(asked, 1):
                tokens, answer, named = self.branch(question.text, question.answer)
                offset = start + len(ids)
                ids += tokens
                segment += [number] * len(tokens)
                positions += range(prefix.next, prefix.next + len(tokens))
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
        ids_, segments, positions_ = (
            torch.tensor([part + [fill] * (length - len(part)) for part in parts])
            for parts, fill in zip(zip(*rows, strict=True), fills, strict=True)
        )
        owners = pad(segments, (start, 0))
        return Packed(
            ids_,
            torch.cat([visible(row, start + length) for row in owners]),
            positions_,
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
