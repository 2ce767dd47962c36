"""Answers to all questions on a clip from one encoded prefix and one KV cache.

Every question is a branch that sees the prefix and itself (see prefix_sharing.py). All prompts are
read in one forward; then each step feeds one token of every unfinished answer. Decoding is greedy
without a repetition penalty, and ignores the checkpoint's generation config.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.prompt import Prompt, Stream
from vlynx_pl.branch_attention import visible
from vlynx_pl.io.errors import UserError
from vlynx_pl.prefix_sharing import question_branch
from vlynx_pl.questions import Question


class NextToken(NamedTuple):
    """A token of an answer, and the natural logarithm of its probability."""

    id: int
    logprob: float


class SharedCache:
    """The KV cache of one clip: each prefix once, then the tokens of their branches.

    Args:
        backbone: the Video LLM.
        streams: RGB first, then the modalities.
        llm_adapter: name of the LLM adapter to switch on; None is the untouched base.
        others: the streams of further prefixes. Of G prefixes in all, branch b, counted from 1,
            continues prefix ``(b - 1) % G``.
    """

    @torch.inference_mode()
    def __init__(
        self,
        backbone: VideoBackbone,
        streams: Sequence[Stream],
        llm_adapter: str | None = None,
        others: Sequence[Sequence[Stream]] = (),
    ) -> None:
        self._backbone, self._adapter = backbone, llm_adapter
        prefixes = [backbone.prompt(each) for each in (streams, *others)]
        self._starts = [prefix.next for prefix in prefixes]
        self._cache = _joined([self._read(prefix) for prefix in prefixes])
        lengths = torch.tensor([len(prefix.embeddings) for prefix in prefixes])
        # Of each token: its branch, or 0 in a prefix; and its prefix.
        self._owners = torch.zeros(int(lengths.sum()), dtype=torch.long, device=backbone.device)
        self._prefixes = torch.arange(len(prefixes)).repeat_interleave(lengths).to(backbone.device)
        self._lengths: dict[int, int] = {}  # branch → its tokens so far

    def _read(self, prefix: Prompt) -> DynamicCache:
        # Each prefix is read by itself, as none may see another.
        cache = DynamicCache()
        self._backbone.read(prefix, self._adapter, cache=cache)
        return cache

    @torch.inference_mode()
    def feed(self, tokens: Mapping[int, Sequence[int]]) -> Tensor:
        """Begin or continue branches.

        Args:
            tokens: branch, counted from 1 → its next token ids, at least one.

        Returns:
            (len(tokens), V) float32 logits after the last token of each, in the order given.
        """
        ids: list[int] = []
        owners: list[int] = []
        prefixes: list[int] = []
        positions: list[int] = []
        ends: list[int] = []
        for branch, new in tokens.items():
            prefix = (branch - 1) % len(self._starts)
            first = self._starts[prefix] + self._lengths.get(branch, 0)
            ids += new
            owners += [branch] * len(new)
            prefixes += [prefix] * len(new)
            positions += range(first, first + len(new))
            ends.append(len(ids) - 1)
            self._lengths[branch] = self._lengths.get(branch, 0) + len(new)
        backbone = self._backbone
        self._owners = torch.cat([self._owners, torch.tensor(owners, device=backbone.device)])
        self._prefixes = torch.cat([self._prefixes, torch.tensor(prefixes, device=backbone.device)])
        text, mask = backbone.text(ids, positions), visible(self._owners, len(ids))
        mask &= self._prefixes[-len(ids) :, None] == self._prefixes
        hidden = backbone.read(text, self._adapter, mask, self._cache)
        return backbone.logits(hidden[ends])

    def forget(self) -> None:
        """Remove all branches, so that other questions can be asked about the same prefixes."""
        self._cache.crop(-sum(self._lengths.values()))
        self._owners, self._prefixes = self._owners[: self.prefix], self._prefixes[: self.prefix]
        self._lengths.clear()

    @property
    def prefix(self) -> int:
        """Tokens of all prefixes."""
        return len(self._owners) - sum(self._lengths.values())

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values."""
        layers: Any = self._cache.layers
        return sum(part.nbytes for layer in layers for part in (layer.keys, layer.values))


def _joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Concatenate the tokens of caches."""
    if len(caches) == 1:
        return caches[0]
    whole = DynamicCache()
    for index, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        keys, values = ([getattr(layer, kind) for layer in layers] for kind in ("keys", "values"))
        whole.update(torch.cat(keys, 2), torch.cat(values, 2), index)
    return whole


def answer(
    backbone: VideoBackbone,
    streams: Sequence[Stream],
    questions: Sequence[Question],
    *,
    max_new_tokens: int = 64,
    llm_adapter: str | None = None,
) -> list[str]:
    """Answer all questions on a clip, each with at least one token (method.md section 5.3).

    Args:
        backbone: the Video LLM.
        streams: RGB first, then the modalities.
        questions: their prompts and histories are read, their answers are not.
        max_new_tokens: maximum tokens of an answer.
        llm_adapter: name of the LLM adapter to switch on; None is the untouched base.

    Raises:
        UserError: there are no questions, or one cannot be put into a prompt.
    """
    [said] = answer_each(
        backbone, [streams], questions, max_new_tokens=max_new_tokens, llm_adapter=llm_adapter
    )
    return said


def answer_each(
    backbone: VideoBackbone,
    clips: Sequence[Sequence[Stream]],
    questions: Sequence[Question],
    *,
    max_new_tokens: int = 64,
    llm_adapter: str | None = None,
) -> list[list[str]]:
    """Answer the same questions on each of several clips, as :func:`answer` does on one.

    All answers are generated together, which takes hardly longer than those on one clip where the
    LLM is small. The caches of all clips are in memory at the same time.
    """
    tokenizer = backbone.tokenizer
    prompts = [ids for ids in _prompts(backbone, questions) for _ in clips]
    cache = SharedCache(backbone, clips[0], llm_adapter, clips[1:])
    answers = [
        str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        for ids in generate(cache, prompts, max_new_tokens, 1, stop_ids(backbone))
    ]
    return [answers[i :: len(clips)] for i in range(len(clips))]


def _prompts(backbone: VideoBackbone, questions: Sequence[Question]) -> list[list[int]]:
    if not questions:
        raise UserError("a clip without questions has nothing to answer; leave it out")
    return [prompt_ids(backbone, question) for question in questions]


def prompt_ids(backbone: VideoBackbone, question: Question) -> list[int]:
    """The token ids of a question, after the visual tokens; raises UserError if it has none."""
    return question_branch(backbone.tokenizer, backbone.chat, question, learnt=False).ids


def stop_ids(backbone: VideoBackbone) -> list[int]:
    """Ids of the tokens that end an answer."""
    return [backbone.tokenizer.get_vocab()[token] for token in backbone.chat.stop]


def generate(
    cache: SharedCache,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    min_new_tokens: int,
    stop: Sequence[int],
) -> list[list[int]]:
    """Continue all prompts on a clip greedily.

    Args:
        cache: of the clip, without branches.
        prompts: token ids that follow the visual tokens.
        max_new_tokens: maximum tokens of an answer.
        min_new_tokens: minimum tokens of an answer.
        stop: ids of the tokens that end an answer.

    Returns:
        New token ids for each prompt, without the one that ended the answer.
    """
    answers: dict[int, list[int]] = {branch: [] for branch in range(1, len(prompts) + 1)}
    for step in continued(cache, prompts, max_new_tokens, min_new_tokens, stop):
        for branch, token in step.items():
            answers[branch].append(token.id)
    return list(answers.values())


@torch.inference_mode()
def continued(
    cache: SharedCache,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    min_new_tokens: int,
    stop: Sequence[int],
) -> Iterator[dict[int, NextToken]]:
    """Continue prompts as :func:`generate` does, and yield each step as soon as it is made.

    Yields:
        Branch, counted from 1 → its next token; branches that have ended are absent.
    """
    feeding: dict[int, Sequence[int]] = dict(enumerate(prompts, 1))
    for step in range(max_new_tokens):
        logits = cache.feed(feeding)
        scores = logits.log_softmax(-1)
        if step < min_new_tokens:
            logits[:, list(stop)] = -torch.inf
        best = logits.argmax(-1)
        likely = scores.gather(1, best[:, None])[:, 0]
        pairs = map(NextToken, best.tolist(), likely.tolist())
        found = dict(zip(feeding, pairs, strict=True))
        said = {branch: token for branch, token in found.items() if token.id not in stop}
        if not said:
            return
        yield said
        feeding = {branch: [token.id] for branch, token in said.items()}


def logprob(cache: SharedCache, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Sum the natural logarithms of the probabilities of an answer's tokens.

    Args:
        cache: of the clip, without branches.
        prompt: token ids of the question.
        answer: token ids, at least one.
    """
    total, feeding = 0.0, prompt
    for token in answer:
        total += float(cache.feed({1: feeding})[0].log_softmax(-1)[token])
        feeding = [token]
    return total


def score_options(
    backbone: VideoBackbone,
    streams: Sequence[Stream],
    questions: Sequence[Question],
    options: Sequence[str],
    *,
    llm_adapter: str | None = None,
) -> Tensor:
    """Score how likely each option begins the answer.

    Returns:
        (K, len(options)) float32 logits of the options' first tokens.

    Raises:
        UserError: two options begin with the same token, or there are no questions.
    """
    tokenizer = backbone.tokenizer
    first = [tokenizer(option, add_special_tokens=False)["input_ids"][0] for option in options]
    if len(set(first)) < len(first):
        raise UserError(f"options {list(options)} do not differ in their first tokens {first}")
    prompts = _prompts(backbone, questions)
    cache = SharedCache(backbone, streams, llm_adapter)
    return cache.feed(dict(enumerate(prompts, 1)))[:, first]


def choose(
    backbone: VideoBackbone,
    streams: Sequence[Stream],
    questions: Sequence[Question],
    letters: str = "ABCD",
    *,
    llm_adapter: str | None = None,
) -> list[str]:
    """Choose the most likely letter for each question, with or without a space before it.

    This is AVQA's evaluation (method.md section 5.3). Spellings of several tokens are ignored.
    """
    spellings = [
        spelling
        for letter in letters
        for spelling in (letter, f" {letter}")
        if len(backbone.tokenizer(spelling, add_special_tokens=False)["input_ids"]) == 1
    ]
    scores = score_options(backbone, streams, questions, spellings, llm_adapter=llm_adapter)
    return [spellings[best].strip() for best in scores.argmax(-1).tolist()]
