"""The published rules by which answers are scored; each benchmark names its own.

Figures are in percent, CIDEr times 100, and are named by protocol: ``mlvu/macro7``,
``avsd/cider_1ref``. Failed questions count as wrong, except in figures that end in ``_answered``,
which some published evaluations print.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics import choices
from vlynx_pl.metrics.accuracy import Rule, accuracies, is_right, macro, percent_of
from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.captions import MEASURES, caption_figures, without_stop_words
from vlynx_pl.metrics.figures import Figures
from vlynx_pl.metrics.java import find_java
from vlynx_pl.metrics.named_answers import contains, contains_lower, same_level, same_words
from vlynx_pl.metrics.scene_answers import clean_answer, exact_match, refined_match
from vlynx_pl.metrics.submissions import Submission


@dataclass(frozen=True)
class Protocol:
    """How the answers to a benchmark are scored and submitted.

    Args:
        benchmark: name of its reader, such as ``ScanQA``; saved with predictions.
        name: first part of its figures' names.
        figures: scores a whole set of answers, each question once; the paper's figure is first.
        each: scores each question, to rank the answers.
        submission: formats answers for the benchmark's own evaluation, if that is documented.
        java: whether Java is needed.
        quick: the headline of ``figures``, if all of them take long.
    """

    benchmark: str
    name: str
    figures: Callable[[Sequence[Answered]], Figures]
    each: Callable[[Sequence[Answered]], list[float]]
    submission: Callable[[Sequence[Answered]], Submission] | None = None
    java: bool = False
    quick: Callable[[Sequence[Answered]], Figures] | None = None

    def check(self) -> None:
        """Raise UserError if Java is needed and does not run."""
        if self.java:
            find_java()


def avsd(answered: Sequence[Answered], measures: Sequence[str] = MEASURES) -> Figures:
    """Caption scores by number of references; if several, with and without DSTC7's filter."""
    counts = {len(answer.references) for answer in answered}
    if len(counts) > 1:
        raise UserError(
            f"AVSD's questions have {' or '.join(map(str, sorted(counts)))} references; one figure "
            "needs the same number for all, so give one reference file"
        )
    (count,) = counts
    plain = caption_figures("avsd", answered, suffix=f"_{count}ref", measures=measures)
    if count == 1:
        return plain
    filtered = [replace(a, prediction=without_stop_words(a.text)) for a in answered]
    return caption_figures("avsd", filtered, str, f"_{count}ref_dstc7", measures) | plain


def scanqa(answered: Sequence[Answered], measures: Sequence[str] = MEASURES) -> Figures:
    """Caption scores and exact match of cleaned answers, and the official EM@1, uncleaned."""
    return {
        **caption_figures("scanqa", answered, clean_answer, measures=measures),
        **_scene_matches("scanqa", answered, exact_match, refined_match),
        **accuracies("scanqa/em1_official", answered, lambda said, wanted: said in wanted),
    }


def sqa3d(answered: Sequence[Answered]) -> Figures:
    """Exact match of cleaned answers, by the question's first word."""
    return _scene_matches("sqa3d", answered, sqa3d_exact, sqa3d_refined, [("type",)])


def sqa3d_exact(said: str, references: tuple[str, ...]) -> bool:
    """Exact match with the first reference only, as in SQA3D's published evaluation."""
    return exact_match(said, references[:1])


def sqa3d_refined(said: str, references: tuple[str, ...], empty_is_contained: bool = False) -> bool:
    """``refined_match`` with the first reference only."""
    return refined_match(said, references[:1], empty_is_contained)


def music_avqa(answered: Sequence[Answered]) -> Figures:
    """By modality and type: substring as published, and strict."""
    by = [("modality",), ("modality", "type")]
    return {
        **accuracies("music_avqa/substring", answered, contains_lower, by),
        **accuracies("music_avqa/strict", answered, same_words, by),
    }


def avqa(answered: Sequence[Answered]) -> Figures:
    """By relation and type: the letter anywhere as published, and first."""
    by = [("relation",), ("type",)]
    return {
        **accuracies("avqa/substring", answered, contains, by),
        **accuracies("avqa/strict", answered, letter_first, by),
    }


def egoexo(answered: Sequence[Answered]) -> Figures:
    """Substring as published, longest name by scenario, and always the commonest level."""
    most = Counter(answer.references[0] for answer in answered).most_common(1)[0][1]
    return {
        **accuracies("egoexo/substring", answered, contains),
        **accuracies("egoexo/level", answered, same_level, [("scenario",)]),
        "egoexo/majority_baseline": 100 * most / len(answered),
    }


def avut(answered: Sequence[Answered]) -> Figures:
    """First letter, by task; AVUT has no published evaluation."""
    return accuracies("avut/strict", answered, letter_first, [("task",)])


def video_mme(answered: Sequence[Answered]) -> Figures:
    """As PAVE and V-LynX by duration, domain, sub-category and task; as official, and strict."""
    by = [("duration",), ("domain",), ("sub_category",), ("task_type",)]
    return {
        **accuracies("videomme/lmms", answered, video_mme_lmms, by),
        **accuracies("videomme/official", answered, video_mme_official),
        **accuracies("videomme/strict", answered, letter_first),
    }


def mvbench(answered: Sequence[Answered]) -> Figures:
    """As V-LynX with lmms-eval by task; by the official notebook, and strict."""
    return {
        **accuracies("mvbench/micro_lmms", answered, mvbench_lmms, [("task",)]),
        **accuracies("mvbench/micro_official", answered, choices.mvbench_official),
        **accuracies("mvbench/micro_strict", answered, letter_first),
        **macro("mvbench/macro{}_lmms", answered, mvbench_lmms, "task"),
        **macro("mvbench/macro{}_official", answered, choices.mvbench_official, "task"),
        **macro("mvbench/macro{}_strict", answered, letter_first, "task"),
    }


def mlvu(answered: Sequence[Answered]) -> Figures:
    """As V-LynX released it; by the official rule, whose M-Avg is ``mlvu/macro7``; and strict.

    The paper says M-Avg, but its released code prints the micro average.
    """
    return {
        **accuracies("mlvu/micro_released", answered, mlvu_released, [("task",)]),
        **accuracies("mlvu/micro", answered, mlvu_official, [("task",)]),
        **accuracies("mlvu/micro_strict", answered, letter_first),
        **macro("mlvu/macro{}_released", answered, mlvu_released, "task"),
        **macro("mlvu/macro{}", answered, mlvu_official, "task"),
        **macro("mlvu/macro{}_strict", answered, letter_first, "task"),
    }


def _scene_matches(
    name: str,
    answered: Sequence[Answered],
    exact: Rule,
    refined: Callable[..., bool],
    by: Sequence[tuple[str, ...]] = (),
) -> Figures:
    """EM@1 and refined EM; the latter also as in PAVE's evaluator, which accepts empty answers."""
    passed = [
        answer.prediction is not None
        and refined(answer.text, answer.references, empty_is_contained=True)
        for answer in answered
    ]
    return {
        **accuracies(f"{name}/em1", answered, exact, by),
        **accuracies(f"{name}/em1_refined", answered, refined, by),
        f"{name}/em1_refined_pave": percent_of(answered, passed),
    }


def _letter(extract: Callable[[str], str]) -> Rule:
    return lambda said, references: extract(said) == references[0]


def verdicts(rule: Rule) -> Callable[[Sequence[Answered]], list[float]]:
    """Return a function that scores each question 100 if a rule says right, else 0."""
    return lambda answered: [100.0 * is_right(answer, rule) for answer in answered]


letter_first: Final = _letter(choices.strict_letter)
video_mme_lmms: Final = _letter(partial(choices.video_mme_letter, official=False))
video_mme_official: Final = _letter(partial(choices.video_mme_letter, official=True))
mvbench_lmms: Final = _letter(choices.mvbench_lmms_letter)
mlvu_official: Final = _letter(choices.mlvu_official_letter)
mlvu_released: Final = _letter(choices.mlvu_released_letter)
