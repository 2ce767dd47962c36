"""BLEU-1 to 4, METEOR, ROUGE-L and CIDEr-D of whole sets of sentences, by pycocoevalcap.

All of them are figures of a corpus: CIDEr's weights come from the references of all questions, so
subsets must never be scored and averaged. Of a single question CIDEr is 0.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics.accuracy import Figures, NoFigure
from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.java import coco, meteor, tokenised


class Tokens(NamedTuple):
    """Tokenised sentences, one hypothesis and at least one reference a question."""

    hypotheses: list[str]
    references: list[list[str]]


def tokens(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Tokens:
    """PTB tokens of sentences; raises UserError where Java or pycocoevalcap doesn't work."""
    ends = list(accumulate(map(len, references), initial=len(hypotheses)))
    sentences = tokenised([*hypotheses, *(text for texts in references for text in texts)])
    return Tokens(sentences[: ends[0]], [sentences[start:end] for start, end in pairwise(ends)])


def bleu(sentences: Tokens) -> list[float]:
    """BLEU-1 to 4 of the corpus, 0 to 1, with the length of the closest reference."""
    hypotheses, references = _by_number(sentences)
    scores = _scorer("bleu.bleu", "Bleu")(4).compute_score(references, hypotheses, verbose=0)[0]
    return [float(score) for score in scores]


def rouge_l(sentences: Tokens) -> list[float]:
    """COCO's ROUGE-L (beta 1.2) of each question, 0 to 1; its mean is the corpus's.

    An empty hypothesis is 0 whatever its reference; COCO's finds it in an empty reference.
    """
    rouge = _scorer("rouge.rouge", "Rouge")()
    return [
        float(rouge.calc_score([said], wanted)) if said else 0.0
        for said, wanted in zip(*sentences, strict=True)
    ]


def cider_d(sentences: Tokens) -> list[float]:
    """CIDEr-D of each question, 0 to 10; its mean is the corpus's."""
    hypotheses, references = _by_number(sentences)
    if not any(map(any, sentences.references)):  # pycocoevalcap looks for the commonest word
        return [0.0] * len(hypotheses)
    scores = _scorer("cider.cider", "Cider")().compute_score(references, hypotheses)[1]
    return [float(score) for score in scores]


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Figures:
    """All caption scores of a corpus, as pycocoevalcap gives them (CIDEr 0 to 10, others 0 to 1).

    A score whose program is missing or fails is a ``NoFigure``, and the others stand.
    """
    made = cache(lambda: tokens(hypotheses, references))
    scorers: dict[tuple[str, ...], Callable[[], Sequence[float]]] = {
        ("cider",): lambda: [_mean(cider_d(made()))],
        ("bleu1", "bleu2", "bleu3", "bleu4"): lambda: bleu(made()),
        ("meteor",): lambda: [meteor(*made())],
        ("rouge_l",): lambda: [_mean(rouge_l(made()))],
    }
    scores: Figures = {}
    for names, scorer in scorers.items():
        try:
            scores |= zip(names, scorer(), strict=True)
        except UserError as error:
            scores |= dict.fromkeys(names, NoFigure(str(error)))
    return scores


def caption_figures(
    name: str, answered: Sequence[Answered], clean: Callable[[str], str] = str, suffix: str = ""
) -> Figures:
    """All caption scores × 100, such as ``avsd/cider_1ref``; what failed is an empty sentence.

    Args:
        name: of the benchmark.
        answered: the whole set, with references.
        clean: the protocol's cleaning of predictions and references.
        suffix: of the figures' names.
    """
    said = [clean(answer.text) for answer in answered]
    wanted = [[clean(text) for text in answer.references] for answer in answered]
    scores = caption_scores(said, wanted)
    return {
        f"{name}/{figure}{suffix}": score if isinstance(score, NoFigure) else 100 * score
        for figure, score in scores.items()
    }


def cider_of_each(answered: Sequence[Answered], clean: Callable[[str], str] = str) -> list[float]:
    """CIDEr-D × 100 of each question within its set, to tell the best answers from the worst."""
    wanted = [[clean(text) for text in answer.references] for answer in answered]
    sentences = tokens([clean(answer.text) for answer in answered], wanted)
    return [100 * score for score in cider_d(sentences)]


def without_stop_words(text: str) -> str:
    """DSTC7's filter of hypotheses, which deletes every token of a single character.

    Its list says ``,`` and ``.``, but the latter is a regular expression.

    >>> without_stop_words("i see a man , sitting .")
    'see man sitting'
    """
    return " ".join(word for word in text.split() if len(word) > 1)


def _by_number(sentences: Tokens) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    hypotheses = {number: [said] for number, said in enumerate(sentences.hypotheses)}
    return hypotheses, dict(enumerate(sentences.references))


def _scorer(module: str, name: str) -> Any:
    coco(module)  # one message where it is missing
    return getattr(import_module(f"pycocoevalcap.{module}"), name)


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
