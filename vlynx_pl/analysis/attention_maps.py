"""The LLM's attention from a question's tokens to the streams (paper, Figure 4).

Only rows of the question are computed, Q × P per head instead of P × P. Maps alone prove little:
attention finds objects, whether or not the question is about them. So maps come with the share of
each stream, and :func:`lift` compares the named object with the others.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from vlynx_pl.answering import SharedCache
from vlynx_pl.attention import LISTENING_ATTENTION, AttentionCall, listen
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.branch_attention import BRANCH_ATTENTION
from vlynx_pl.io.errors import UserError
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question

NEUTRAL: Final = Question("neutral", "Describe the scene.", ())
"""The question whose map others are divided by, see :func:`relative`."""

TEXTS: Final = ("text before the question", "question")
"""The columns of :attr:`QuestionAttention.shares` after the streams."""

REGIONS: Final = ("named", "others", "background")
"""The parts of a frame, in the order of :func:`coverage`."""


class QuestionAttention(NamedTuple):
    """Attention of a question in L layers, averaged over heads and over the chosen rows."""

    maps: list[Tensor]  # of each stream, (L, T, N) float32: shares of all attention, 0 if dropped
    shares: Tensor  # (L, streams + 2) float32: each stream, then TEXTS; rows sum to 1


def question_attention(
    backbone: VideoBackbone,
    streams: Sequence[Stream],
    questions: Sequence[Question],
    layers: Sequence[int],
    rows: Sequence[str],
    llm_adapter: str | None = None,
) -> list[QuestionAttention]:
    """Measure where the LLM looks in a clip when it reads each question.

    The prefix is read once for all questions. The softmax is over all tokens that a row sees: the
    chat's opening, the streams and the question.

    Args:
        backbone: the Video LLM.
        streams: RGB first, then the modalities.
        questions: their prompts and histories are read, their answers are not.
        layers: L of the LLM's layers, counted from 1.
        rows: of each question. ``last`` is the token that predicts the answer; ``words`` is the
            mean over the question's own tokens, without the chat's; anything else is a word of the
            question. In layer 1, ``last`` depends on the question by its position only.
        llm_adapter: name of the LLM adapter to switch on; None is the untouched base.

    Raises:
        UserError: there is no such layer, or a question lacks the word.
    """
    modules = llm_layers(backbone, layers)
    visual = backbone.prompt(streams).visual
    cache = SharedCache(backbone, streams, llm_adapter)
    found = []
    with torch.inference_mode(), _listening(backbone):
        for number, (question, chosen) in enumerate(zip(questions, rows, strict=True), 1):
            branch = question_branch(backbone.tokenizer, backbone.chat, question, learnt=False)
            heard = _Heard(modules, len(visual), question_rows(backbone, question, chosen))
            with listen(modules, heard.hear, len(branch.ids)):
                cache.feed({number: branch.ids})
            found.append(_divided(heard.means(), visual, streams))
    return found


def llm_layers(backbone: VideoBackbone, layers: Sequence[int]) -> list[Any]:
    """The attention modules of some of the LLM's layers, counted from 1.

    Raises:
        UserError: there is no such layer, or one is given twice.
    """
    model: Any = backbone.language_model
    count = len(model.layers)
    known = {*layers} & {*range(1, count + 1)}
    if not known or len(known) < len(layers):
        raise UserError(
            f"layers={','.join(map(str, layers))}: the LLM of {backbone.name} has layers 1 to "
            f"{count}; give some of them, each once"
        )
    return [model.layers[layer - 1].self_attn for layer in layers]


def question_rows(backbone: VideoBackbone, question: Question, rows: str) -> list[int]:
    """Find tokens of a question by their places in its :class:`Branch`.

    Args:
        backbone: the Video LLM.
        question: of a dialogue, only the last turn counts.
        rows: see :func:`question_attention`.

    Raises:
        UserError: the question lacks the word.
    """
    chat, tokenizer, asked = backbone.chat, backbone.tokenizer, question.prompt
    end = len(question_branch(tokenizer, chat, question, learnt=False).ids)
    if rows == "last":
        return [end - 1]
    span = (0, len(asked))
    if rows != "words":
        word = find_word(asked, rows)
        if word is None:
            raise UserError(f"the question {asked!r:.80} lacks the word {rows!r:.40}; give another")
        span = word
    before = chat.user if question.history else chat.asking
    text = f"{before}{asked}{chat.end}{chat.assistant}"
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    first, last = (len(before) + place for place in span)
    start = end - len(read["input_ids"])
    return [
        start + i
        for i, (begins, ends) in enumerate(read["offset_mapping"])
        if begins < last and ends > first
    ]


def find_word(text: str, word: str) -> tuple[int, int] | None:
    """Where a word begins and ends in a text, in any case and only as a whole, or None."""
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return None if found is None else found.span()


def relative(found: Tensor, neutral: Tensor) -> Tensor:
    """Divide the map of a question by the map of another, each as shares of its own stream.

    Args:
        found: (..., T, N).
        neutral: (..., T, N) of :data:`NEUTRAL` on the same clip.

    Returns:
        (..., T, N); 1 where both look equally.
    """
    one, other = (each / each.sum((-2, -1), keepdim=True) for each in (found, neutral))
    return one / other


def lift(found: Tensor, mask: Tensor) -> Tensor:
    """Divide the share of a stream's attention on a part of its frames by the part's share of them.

    Args:
        found: (..., T, N) map of the stream.
        mask: (T, N) share of each token that the part covers, from 0 to 1.

    Returns:
        (...); 1 for a uniform map, and NaN if the part covers nothing.

    Raises:
        UserError: the mask has another size.
    """
    if found.shape[-2:] != mask.shape:
        raise UserError(
            f"the mask covers {tuple(mask.shape)} frames and tokens, the map "
            f"{tuple(found.shape[-2:])}; make masks of the same frames at the backbone's token grid"
        )
    on_part = (found * mask).sum((-2, -1)) / found.sum((-2, -1))
    return on_part / mask.mean()


def coverage(instances: Tensor, named: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Compute how much of each token's area shows named objects, other objects and background.

    Args:
        instances: (T, H, W) long, 1 + the object's id at each pixel, or 0 for background.
        named: ids of the objects that the question names.
        grid: (rows, columns) of the tokens of a frame.

    Returns:
        (3, T, N) float32 in the order of :data:`REGIONS`; the three sum to 1.
    """
    is_named = torch.isin(instances, torch.tensor(named, dtype=torch.long) + 1)
    region = torch.where(is_named, 0, torch.where(instances > 0, 1, 2))
    parts = one_hot(region, len(REGIONS)).movedim(-1, 1).float()  # (T, 3, H, W)
    return interpolate(parts, grid, mode="area").flatten(2).transpose(0, 1)


@contextmanager
def _listening(backbone: VideoBackbone) -> Iterator[None]:
    """Run the LLM with the attention function that can be listened to; its results are the same."""
    model: Any = backbone.language_model
    model.set_attn_implementation(LISTENING_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(BRANCH_ATTENTION)


class _Heard:
    """Attention of some rows of a question, layer by layer, as the LLM reads it.

    Args:
        layers: the attention modules.
        prefix: P, tokens before the question.
        rows: R places in the question.
    """

    def __init__(self, layers: Sequence[Any], prefix: int, rows: Sequence[int]) -> None:
        self._layers, self._prefix, self._rows = layers, prefix, torch.tensor(rows)
        self._means: dict[int, Tensor] = {}

    def hear(self, call: AttentionCall) -> None:
        """Keep the mean over heads and rows of a layer whose last Q tokens are the question."""
        own, rows = call.query.shape[2], self._rows.to(call.query.device)
        # Between the two are other questions, which no row sees.
        seen = torch.cat([call.key[0, :, : self._prefix], call.key[0, :, -own:]], 1).float()
        # Consecutive heads of the queries share a head of the keys (GQA).
        query = call.query[0, :, rows].float()
        groups = query.view(len(seen), -1, *query.shape[1:])  # (G, h/G, R, d)
        scores = groups @ seen[:, None].mT * self._layers[call.layer].scaling
        later = torch.arange(own, device=rows.device) > rows[:, None]  # (R, Q)
        scores[..., self._prefix :].masked_fill_(later, -torch.inf)
        self._means[call.layer] = scores.softmax(-1).mean((0, 1, 2)).cpu()

    def means(self) -> Tensor:
        """(L, P + Q), in the order of the layers given."""
        return torch.stack([self._means[layer] for layer in range(len(self._layers))])


def _divided(mean: Tensor, visual: Tensor, streams: Sequence[Stream]) -> QuestionAttention:
    """Divide rows (L, P + Q) into the maps of the streams, and the rest."""
    prefix, question = mean.tensor_split([len(visual)], 1)
    parts = torch.split(prefix[:, visual], [len(stream.rows) for stream in streams], 1)
    columns = [*parts, prefix[:, ~visual], question]
    shares = torch.stack([column.sum(1) for column in columns], 1)
    maps = []
    for part, stream in zip(parts, streams, strict=True):
        whole = torch.ones(stream.grid, dtype=torch.bool) if stream.kept is None else stream.kept
        found = part.new_zeros(len(mean), *stream.grid)
        found[:, whole.cpu()] = part
        maps.append(found)
    return QuestionAttention(maps, shares)
