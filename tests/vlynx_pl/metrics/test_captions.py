import math
from collections import Counter
from functools import cache

import pytest

from vlynx_pl.metrics import captions
from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.captions import (
    Tokens,
    bleu,
    caption_figures,
    caption_scores,
    cider_d,
    cider_of_each,
    rouge_l,
    tokens,
)

SAID = [
    "two brown chairs stand at the table",
    "he opens the door and then he leaves the room",
    "the the the the",
    "a lamp",
    "",
    "music plays somewhere behind the wall of the kitchen",
]
WANTED = [
    ["two chairs stand at the table", "there are two brown wooden chairs by the table"],
    ["he leaves the room", "the man opens a door and leaves the room", "he walks out"],
    ["the cat sleeps", "a cat is on the sofa"],
    ["a lamp"],
    ["nobody is there", "no one"],
    ["some music plays in the kitchen", "music plays behind the wall"],
]
SENTENCES = Tokens(SAID, WANTED)


def ngrams(text, n):
    words = text.split()
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def own_bleu(n):
    """Papineni et al. 2002, of a corpus, with the closest reference's length."""
    logs = 0.0
    for k in range(1, n + 1):
        hits = total = 0
        for said, wanted in zip(SAID, WANTED, strict=True):
            counts = ngrams(said, k)
            hits += sum(min(c, max(ngrams(w, k)[g] for w in wanted)) for g, c in counts.items())
            total += sum(counts.values())
        logs += math.log(hits / total) / n
    length = sum(len(said.split()) for said in SAID)
    closest = 0
    for said, wanted in zip(SAID, WANTED, strict=True):
        length_of = [(abs(len(w.split()) - len(said.split())), len(w.split())) for w in wanted]
        closest += min(length_of)[1]
    return math.exp(logs + min(0, 1 - closest / length))


def own_cider():
    """CIDEr-D, Vedantam et al. 2015, section 4 to 6, with sigma 6."""
    scores = []
    for said, wanted in zip(SAID, WANTED, strict=True):
        score = 0.0
        for reference in wanted:
            for n in range(1, 5):
                documents = [set().union(*(ngrams(w, n) for w in other)) for other in WANTED]

                def weight(gram, documents=documents):
                    seen = sum(gram in document for document in documents)
                    return math.log(len(WANTED) / max(1, seen))

                hypothesis = {g: c * weight(g) for g, c in ngrams(said, n).items()}
                target = {g: c * weight(g) for g, c in ngrams(reference, n).items()}
                inner = sum(
                    min(x, target.get(g, 0)) * target.get(g, 0) for g, x in hypothesis.items()
                )
                norms = math.hypot(*hypothesis.values()) * math.hypot(*target.values())
                apart = len(said.split()) - len(reference.split())
                if norms:
                    score += inner / norms * math.exp(-(apart**2) / 72) / 4
        scores.append(10 * score / len(wanted))
    return scores


def own_rouge(said, wanted):
    """Lin 2004's F of the longest common subsequence, with COCO's beta and best references."""

    @cache
    def common(a, b):
        if not a or not b:
            return 0
        if a[-1] == b[-1]:
            return 1 + common(a[:-1], b[:-1])
        return max(common(a[:-1], b), common(a, b[:-1]))

    words = tuple(said.split())
    lengths = [(common(words, tuple(w.split())), len(w.split())) for w in wanted]
    precision = max(n for n, _ in lengths) / max(1, len(words))
    recall = max(n / length for n, length in lengths)
    if not precision:
        return 0.0
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def test_bleu_against_the_paper():
    assert bleu(SENTENCES) == pytest.approx([own_bleu(n) for n in range(1, 5)], rel=1e-6)


def test_cider_against_the_paper():
    # pycocoevalcap's length of a sentence is its number of bigrams; the differences are the same
    # but for sentences of no word.
    found, own = cider_d(SENTENCES), own_cider()
    assert found == pytest.approx(own, rel=1e-9)
    assert found[3] == pytest.approx(5) and found[4] == 0


def test_rouge_against_the_paper():
    own = [own_rouge(said, wanted) for said, wanted in zip(SAID, WANTED, strict=True)]
    assert rouge_l(SENTENCES) == pytest.approx(own, rel=1e-9)


def test_all_scores_of_sentences_as_they_are_written_in_any_locale(monkeypatch):
    """METEOR of a sentence that equals a reference is 1, and an empty one lowers the corpus's."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.language.format=de")
    said = ["Two chairs, at the TABLE!", "A man\ncan't sit.", ""]
    wanted = [["two chairs at the table"], ["x", "a man ca n't sit"], ["nobody"]]
    scores = caption_scores(said, wanted)
    assert list(scores) == ["cider", "bleu1", "bleu2", "bleu3", "bleu4", "meteor", "rouge_l"]
    assert sum(scores["rouge_l"]) == pytest.approx(3 * 2 / 3)
    assert scores["bleu1"] == pytest.approx(math.exp(1 - 11 / 10))
    assert scores["cider"] == pytest.approx([10, 10 / 2, 0])  # one reference is "x"
    assert 0.8 < scores["meteor"] < 1


def test_nothing_said_gains_nothing_even_from_empty_references():
    sentences = Tokens(["", ""], [[""], ["", "a"]])
    assert cider_d(sentences) == rouge_l(sentences) == [0, 0]
    assert cider_d(Tokens([""], [[""]])) == cider_d(Tokens(["a cat"], [["a cat"]])) == [0]
    assert max(bleu(sentences)) < 1e-6


def test_a_line_break_of_any_kind_shifts_no_sentence():
    breaks = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    found = tokens([f"one{mark}two" for mark in breaks] + ["", "last"], [["x"]] * 12)
    assert found == Tokens(["one two"] * 10 + ["", "last"], [["x"]] * 12)


def test_tokens_are_stanfords():
    sentences = ["Don't!", "cannot - go: (now); \"yes\" 'no' 2.5 A/B café...", "\ud800"]
    assert tokens(sentences, [["x"]] * 3).hypotheses == [
        "do n't",
        "can not go -lrb- now -rrb- yes no 2.5 a/b café",
        "",
    ]


@pytest.fixture
def no_meteor(monkeypatch):
    """METEOR takes seconds to start."""
    monkeypatch.setattr(captions, "meteor", lambda said, wanted: 0.5)


def test_figures_are_in_percent_and_what_failed_is_an_empty_sentence(no_meteor):
    answered = [
        Answered(str(i), said or None, tuple(wanted))
        for i, (said, wanted) in enumerate(zip(SAID, WANTED, strict=True))
    ]
    figures = caption_figures("toy", answered, suffix="_x")
    assert figures["toy/cider_x"] == pytest.approx(100 * sum(own_cider()) / 6)
    assert figures["toy/bleu4_x"] == pytest.approx(100 * own_bleu(4), rel=1e-6)
    assert figures["toy/meteor_x"] == 50
    assert cider_of_each(answered) == pytest.approx([100 * x for x in own_cider()])


@pytest.mark.slow
def test_meteor_is_what_pycocoevalcaps_own_wrapper_gives():
    from pycocoevalcap.meteor.meteor import Meteor

    said, wanted = dict(enumerate([s] for s in SAID)), dict(enumerate(WANTED))
    wrapper = Meteor()
    score, _ = wrapper.compute_score(wanted, said)
    wrapper.meteor_p.stderr.close()
    wrapper.meteor_p.stdout.close()
    assert captions.meteor(*SENTENCES) == pytest.approx(score, rel=1e-12)
