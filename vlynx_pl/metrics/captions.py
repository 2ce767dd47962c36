"""BLEU-1 to 4, METEOR, ROUGE-L and CIDEr-D of a corpus, by pycocoevalcap.

CIDEr's weights come from the references of all questions, so never average scores of subsets. The
CIDEr of a single question is 0.
"""

from collections.abc import Callable, Collection, Sequence
from functools import cache
from importlib import import_module
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.figures import Figures, Mean, NoFigure, Value
from vlynx_pl.metrics.java import coco, meteor, tokenised

MEASURES: Final = ("cider", "bleu", "meteor", "rouge_l")


class Tokens(NamedTuple):
    """Tokenised sentences, one hypothesis and at least one reference per question."""

    hypotheses: list[str]
    references: list[list[str]]


def tokens(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Tokens:
    """Tokenise sentences; raise UserError if Java or pycocoevalcap does not work."""
    ends = list(accumulate(map(len, references), initial=len(hypotheses)))
    sentences = tokenised([*hypotheses, *(text for texts in references for text in texts)])
    return Tokens(sentences[: ends[0]], [sentences[start:end] for start, end in pairwise(ends)])


def bleu(sentences: Tokens) -> list[float]:
    """Compute BLEU-1 to 4 of the corpus, 0 to 1, with the length of the closest reference."""
    hypotheses, references = _by_number(sentences)
    scores = _scorer("bleu.bleu", "Bleu")(4).compute_score(references, hypotheses, verbose=0)[0]
    return [float(score) for score in scores]


def rouge_l(sentences: Tokens) -> list[float]:
    """Compute COCO's ROUGE-L (beta 1.2) of each question, 0 to 1; the mean is the corpus's.

    An empty hypothesis always scores 0, unlike COCO's with an empty reference.
    """
    rouge = _scorer("rouge.rouge", "Rouge")()
    return [
        float(rouge.calc_score([said], wanted)) if said else 0.0
        for said, wanted in zip(*sentences, strict=True)
    ]


def cider_d(sentences: Tokens) -> list[float]:
    """Compute CIDEr-D of each question, 0 to 10; the mean is the corpus's."""
    hypotheses, references = _by_number(sentences)
    if not any(map(any, sentences.references)):  # pycocoevalcap fails without any word
        return [0.0] * len(hypotheses)
    scores = _scorer("cider.cider", "Cider")().compute_score(references, hypotheses)[1]
    return [float(score) for score in scores]


def caption_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    measures: Collection[str] = MEASURES,
) -> dict[str, float | list[float]]:
    """Compute caption scores of a corpus in pycocoevalcap's units (CIDEr 0-10, others 0-1).

    Those that are means are returned as one score per question. A score whose program is missing or
    fails is a ``NoFigure``.
    """
    made = cache(lambda: tokens(hypotheses, references))
    scorers: dict[str, tuple[tuple[str, ...], Callable[[], Sequence[float | list[float]]]]] = {
        "cider": (("cider",), lambda: [cider_d(made())]),
        "bleu": (("bleu1", "bleu2", "bleu3", "bleu4"), lambda: bleu(made())),
        "meteor": (("meteor",), lambda: [meteor(*made())]),
        "rouge_l": (("rouge_l",), lambda: [rouge_l(made())]),
    }
    scores: dict[str, float | list[float]] = {}
    for names, scorer in (scorers[measure] for measure in measures):
        try:
            scores |= zip(names, scorer(), strict=True)
        except UserError as error:
            scores |= dict.fromkeys(names, NoFigure(str(error)))
    return scores


def caption_figures(
    name: str,
    answered: Sequence[Answered],
    clean: Callable[[str], str] = str,
    suffix: str = "",
    measures: Collection[str] = MEASURES,
) -> Figures:
    """Compute caption scores × 100; a failed answer is an empty sentence.

    Args:
        name: of the benchmark; figures are called ``avsd/cider_1ref``.
        answered: the whole set, with references.
        clean: the protocol's cleaning of predictions and references.
        suffix: of the figures' names.
        measures: those of ``MEASURES`` to compute.
    """
    said = [clean(answer.text) for answer in answered]
    wanted = [[clean(text) for text in answer.references] for answer in answered]
    scores = caption_scores(said, wanted, measures)
    return {
        f"{name}/{figure}{suffix}": _percent(answered, score) for figure, score in scores.items()
    }


def _percent(answered: Sequence[Answered], score: float | list[float]) -> float:
    if isinstance(score, NoFigure):
        return score
    if not isinstance(score, list):
        return 100 * score
    pairs = zip(answered, score, strict=True)
    values = [Value(answer.id, answer.clip, 100 * one) for answer, one in pairs]
    return Mean(100 * (sum(score) / len(score)), values)


def cider_of_each(answered: Sequence[Answered], clean: Callable[[str], str] = str) -> list[float]:
    """Compute CIDEr-D × 100 of each question within its set."""
    wanted = [[clean(text) for text in answer.references] for answer in answered]
    sentences = tokens([clean(answer.text) for answer in answered], wanted)
    return [100 * score for score in cider_d(sentences)]


def without_stop_words(text: str) -> str:
    """DSTC7's filter of hypotheses, which deletes every token of one character.

    Its list has ``,`` and ``.``, but the latter is used as a regular expression.

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
