"""What the LLM would call a token: the word of the vocabulary whose embedding is nearest to it."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlynx_pl.backbones.base import VideoBackbone

_AT_ONCE: Final = 8192  # words that rows are compared with at once
_UNREADABLE: Final = "\ufffd"


class Vocabulary(NamedTuple):
    """The V words of a backbone's tokenizer, without special tokens."""

    rows: Tensor  # (V, D), as the LLM reads them
    texts: list[str]  # readable


def vocabulary(backbone: VideoBackbone) -> Vocabulary:
    """Return the words that a text may have.

    Embeddings may have more rows than the tokenizer has words; those were never trained. Neither
    are words whose row is zero.
    """
    tokenizer = backbone.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
    rows = backbone.embed(ids.to(backbone.device)).detach()
    trained = rows.any(1).cpu()
    texts = [_readable(backbone, i) for i in ids[trained].tolist()]
    return Vocabulary(rows[trained.to(rows.device)], texts)


def names(rows: Tensor, words: Vocabulary, centred: bool = False) -> dict[str, float]:
    """Name each row by the word with the largest cosine.

    A few words are near to everything. Centring takes away what all words, and all rows, have in
    common; the names are then more specific, and noisier.

    Args:
        rows: (R, D).
        words: of the backbone.
        centred: subtract the mean of the rows and of the words first.

    Returns:
        Name → its share of the rows, the commonest first.
    """
    rows, embeddings = rows.to(words.rows.device).float(), words.rows
    origin = embeddings.mean(0, dtype=torch.float32) if centred else 0.0
    rows = normalize(rows - rows.mean(0) if centred else rows)
    nearest = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    most = torch.full((len(rows),), -torch.inf, device=rows.device)
    for first in range(0, len(embeddings), _AT_ONCE):
        part = normalize(embeddings[first : first + _AT_ONCE].float() - origin)
        alike, place = (rows @ part.T).max(1)
        nearest = torch.where(alike > most, first + place, nearest)
        most = torch.maximum(alike, most)
    counts = Counter(words.texts[index] for index in nearest.tolist())
    return {name: count / len(rows) for name, count in counts.most_common()}


def entropy(shares: Mapping[str, float]) -> float:
    """Entropy of names in nats; 0 if all rows have the same name."""
    # fsum does not depend on the order, which is another in every process for a set of names.
    return 0.0 - math.fsum(share * math.log(share) for share in shares.values())


def name_distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Jensen-Shannon distance of two streams' names: 0 if they are the same, 1 if none is."""
    every = one.keys() | other.keys()
    middle = {name: (one.get(name, 0) + other.get(name, 0)) / 2 for name in every}
    divergence = entropy(middle) - (entropy(one) + entropy(other)) / 2
    return math.sqrt(max(0.0, divergence) / math.log(2))


def _readable(backbone: VideoBackbone, number: int) -> str:
    """A word without the space before it; bytes that are only a part of a character by number."""
    text = str(backbone.tokenizer.decode([number]))
    if _UNREADABLE in text:
        return f"token {number}"
    return text.strip() if text.strip().isprintable() and text.strip() else ascii(text)
