"""Which answers are selected as the worst and the best, and what the sheet shows of them."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from callbacks.answer_sheet import ScoredAnswer, draw_answers, select_extremes
from vlynx_pl.metrics import Answered

PURPLE, BLUE, LIME = (150, 0, 150), (0, 0, 255), (0, 255, 0)


@st.composite
def runs(draw):
    """Answers with many equal scores, few clips and few questions; and how many to select."""
    answered, scores = [], []
    for i in range(draw(st.integers(0, 40))):
        said = draw(st.sampled_from(["yes", "yes", "no", "", None]))
        clip, asked = draw(st.sampled_from("abcd")), draw(st.sampled_from(["who?", "when?"]))
        answered.append(Answered(f"id{i}", said, ("yes",), clip=clip, question=asked))
        failed = answered[-1].failed
        scores.append(0.0 if failed else draw(st.sampled_from([0.0, 50.0, 100.0])))
    return answered, scores, draw(st.integers(1, 12))


@settings(max_examples=100)
@given(runs(), st.randoms())
def test_the_extremes_are_selected_once_each_whatever_the_order(run, random):
    answered, scores, count = run
    worst, best = select_extremes(answered, scores, count)
    pairs = list(zip(answered, scores, strict=True))
    random.shuffle(pairs)
    assert select_extremes(*zip(*pairs, strict=True), count) == (worst, best) if pairs else True
    ids = [one.answer.id for one in worst + best]
    assert len(set(ids)) == len(ids)
    own = {answer.id: score for answer, score in pairs}
    assert all(one.score == own[one.answer.id] for one in worst + best)
    spoken = sorted(score for answer, score in pairs if not answer.failed)
    assert len(best) == min(count, len(spoken) // 2)
    assert len(worst) == min(count, len(answered) - len(best))
    assert [one.score for one in best] == spoken[::-1][: len(best)]
    lowest = [one.score for one in worst if not one.answer.failed]
    assert lowest == spoken[: len(lowest)]


@settings(max_examples=50)
@given(runs())
def test_failed_answers_come_first_among_the_worst_and_take_at_most_half(run):
    answered, scores, count = run
    worst, best = select_extremes(answered, scores, count)
    assert not any(one.answer.failed for one in best)
    failed = [one.answer.failed for one in worst]
    assert failed == sorted(failed, reverse=True)
    others = sum(not answer.failed for answer in answered) - len(best)
    most = max(count // 2, count - others)
    assert sum(failed) == min(sum(answer.failed for answer in answered), most)


def test_equal_scores_come_from_various_clips_and_questions():
    answered = [
        Answered(f"{clip}-{i}", "a", ("a",), clip=f"clip{clip}", question=f"question {i}?")
        for clip in range(30)
        for i in range(5)
    ]
    for block in select_extremes(answered, [100.0] * 150, 10):
        assert len({one.answer.clip for one in block}) > 5
        assert len({one.answer.question for one in block}) > 3


def one(score=0.0, **changes) -> ScoredAnswer:
    fields = {"prediction": "no", "references": ("yes",), "clip": "c", "question": "Is it?"}
    return ScoredAnswer(Answered(**({"id": "7"} | fields | changes)), score)


def episode(*colours, frames=4, size=(64, 64), step=0.5, name="stream"):
    """One stream per colour; every frame is a little darker than the one before."""
    levels = torch.linspace(1, 0.25, frames)[:, None, None, None]
    streams = {
        f"{name} {i}": (levels * torch.tensor(c)[:, None, None]).expand(-1, -1, *size).byte()
        for i, c in enumerate(colours)
    }
    return {"streams": streams, "times": {n: [step * i for i in range(frames)] for n in streams}}


@pytest.fixture
def draw(tmp_path):
    def drawn(worst, best, episodes, title="Bench · val · score 1.00\nabout"):
        path = tmp_path / "sheet.png"
        draw_answers(worst, best, episodes, title, path)
        with Image.open(path) as image:
            assert image.format == "PNG" and image.width == 1600
            return np.array(image.convert("RGB")).astype(int)

    return drawn


def area(sheet, colour, level=1.0) -> int:
    """The number of pixels of nearly this colour."""
    return int((np.abs(sheet - level * np.array(colour)).max(-1) < 12).sum())


def test_four_frames_of_each_stream_are_drawn_from_the_first_to_the_last(draw):
    sheet = draw([one()], [], {"c": episode(PURPLE, BLUE, LIME, frames=7)})
    for colour in (PURPLE, BLUE, LIME):
        drawn = [area(sheet, colour, 1 - i / 8) for i in range(7)]
        assert min(drawn[::2]) > 900 and max(drawn[1::2]) < 100, (colour, drawn)


def test_a_single_wide_frame_keeps_its_shape(draw):
    sheet = draw([one()], [], {"c": episode(BLUE, frames=1, size=(32, 64))})
    rows, columns = np.nonzero((sheet == BLUE).all(-1))
    assert np.ptp(columns) + 1 == pytest.approx(2 * (np.ptp(rows) + 1), rel=0.05)


def test_a_clip_without_media_has_a_note_beside_those_with_media(draw):
    failed = one(id="8", clip="gone", prediction=None)
    sheet = draw([failed, one()], [one(id="9")], {"c": episode(BLUE)})
    assert area(sheet, BLUE) > 2 * 2000
    top = sheet[90:250, 800:]  # the first row, right of its texts
    assert area(top, BLUE) == 0 and 50 < (top.max(-1) < 200).sum() < 5000


@pytest.mark.parametrize(
    "other",
    [
        {"question": "Is it not?"},
        {"prediction": "maybe"},
        {"references": ("yes", "yes, it is")},
        {"id": "70"},
        {"score": 1.0},
        {"title": "Bench · val · score 2.00"},
        {"options": ("a cat", "a dog"), "prediction": "B."},
        {"step": 1.0},
        {"name": "3d"},
        {"best": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_everything_that_is_told_is_drawn(draw, other):
    def sheet(title="title", step=0.5, name="stream", best=False, **answer):
        shown, scored = {"c": episode(BLUE, step=step, name=name)}, one(**answer)
        return draw([] if best else [scored], [scored] if best else [], shown, title)

    plain = sheet(**({"prediction": other["prediction"]} if "options" in other else {}))
    assert (sheet(**other) != plain).any()


@pytest.mark.parametrize("letters", ["word " * 500, "W" * 500, "一" * 500])
def test_long_texts_cover_neither_the_frames_nor_the_next_row(draw, letters):
    long = one(question=letters, prediction=letters, references=(letters, letters))
    short, full = (draw([first, one()], [], {"c": episode(BLUE)}) for first in (one(), long))
    assert short.shape == full.shape
    for part in (np.s_[:, 800:], np.s_[265:]):  # the frames, and the second row
        assert np.abs(short[part] - full[part]).max() < 40


@settings(max_examples=8)
@given(st.text(), st.sampled_from(["$x^{$", "\ud800 half", "日本語 🎉", "a\x00b\nc\td", "\\frac{"]))
def test_any_text_is_drawn_without_a_warning(tmp_path_factory, text, strange):
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    scored = one(
        question=text + strange, prediction=strange, references=(text,), clip=text, id=text
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_answers([scored], [], {text: episode(BLUE, name=text)}, f"t {strange}", path)
    assert path.stat().st_size > 0
