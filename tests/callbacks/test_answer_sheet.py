"""The worst and the best answers: which they are, and what can be seen of them."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from callbacks.answer_sheet import ScoredAnswer, draw_answers, select_extremes
from vlynx_pl.metrics import Answered

COLOURS = {"purple": (150, 0, 150), "blue": (0, 0, 255), "lime": (0, 255, 0), "gold": (255, 200, 0)}


@st.composite
def runs(draw):
    """Some answers, with many equal figures, few clips and few questions; and how many to show."""
    size = draw(st.integers(0, 40))
    answered, figures = [], []
    for i in range(size):
        said = draw(st.sampled_from(["yes", "yes", "no", "", None]))
        clip, asked = draw(st.sampled_from("abcd")), draw(st.sampled_from(["who?", "when?"]))
        answered.append(Answered(f"id{i}", said, ("yes",), clip=clip, question=asked))
        failed = answered[-1].failed
        figures.append(0.0 if failed else draw(st.sampled_from([0.0, 50.0, 100.0])))
    return answered, figures, draw(st.integers(1, 12))


@settings(max_examples=50)
@given(runs())
def test_no_answer_is_shown_twice_and_as_many_as_there_can_be(run):
    answered, figures, count = run
    worst, best = select_extremes(answered, figures, count)
    ids = [one.answer.id for one in worst + best]
    assert len(set(ids)) == len(ids)
    said = sum(not answer.failed for answer in answered)
    assert len(best) == min(count, said // 2)
    assert len(worst) == min(count, len(answered) - len(best))
    own = {answer.id: figure for answer, figure in zip(answered, figures, strict=True)}
    assert all(one.figure == own[one.answer.id] for one in worst + best)


@settings(max_examples=50)
@given(runs())
def test_best_are_the_highest_and_worst_the_lowest(run):
    answered, figures, count = run
    worst, best = select_extremes(answered, figures, count)
    said = sorted(f for a, f in zip(answered, figures, strict=True) if not a.failed)
    assert [one.figure for one in best] == said[::-1][: len(best)]
    spoken = [one.figure for one in worst if not one.answer.failed]
    assert spoken == said[: len(spoken)]


@settings(max_examples=50)
@given(runs())
def test_failed_ones_are_first_among_the_worst_and_leave_half_to_others(run):
    answered, figures, count = run
    worst, best = select_extremes(answered, figures, count)
    assert not any(one.answer.failed for one in best)
    failed = [one.answer.failed for one in worst]
    assert failed == sorted(failed, reverse=True)
    others = sum(not answer.failed for answer in answered) - len(best)
    share = max(count // 2, count - others)
    assert sum(failed) == min(sum(answer.failed for answer in answered), share)


@settings(max_examples=50)
@given(runs(), st.randoms())
def test_the_order_of_the_answers_makes_no_difference(run, random):
    answered, figures, count = run
    pairs = list(zip(answered, figures, strict=True))
    random.shuffle(pairs)
    assert select_extremes([a for a, _ in pairs], [f for _, f in pairs], count) == select_extremes(
        *run
    )


@settings(max_examples=50)
@given(runs())
def test_of_equal_figures_the_clip_that_was_shown_least_comes_next(run):
    answered, figures, count = run
    _, best = select_extremes(answered, figures, count)
    left = [ScoredAnswer(a, f) for a, f in zip(answered, figures, strict=True) if not a.failed]
    shown: list[str] = []
    for one in best:
        rivals = [other for other in left if other.figure == one.figure]
        assert shown.count(one.answer.clip) == min(shown.count(r.answer.clip) for r in rivals)
        left.remove(one)
        shown.append(one.answer.clip)


def test_ties_are_of_ten_clips_and_of_all_questions_where_they_exist():
    answered = [
        Answered(f"{clip}-{i}", "a", ("a",), clip=f"clip{clip}", question=f"question {i}?")
        for clip in range(30)
        for i in range(5)
    ]
    for block in select_extremes(answered, [100.0] * 150, 10):
        assert len({one.answer.clip for one in block}) == 10
        assert {one.answer.question for one in block} == {f"question {i}?" for i in range(5)}


def one(**changes) -> ScoredAnswer:
    fields = {"prediction": "no", "references": ("yes",), "clip": "c", "question": "Is it?"}
    return ScoredAnswer(Answered(**({"id": "7"} | fields | changes)), 0.0)


def episode(*streams, frames=4, size=(64, 64), step=0.5):
    """Streams by the name of their colour; every frame is a little darker than the one before."""
    levels = torch.linspace(1, 0.25, frames)[:, None, None, None]
    pictures = {
        name: (levels * torch.tensor(COLOURS[name])[:, None, None]).expand(-1, -1, *size).byte()
        for name in streams
    }
    return {
        "streams": pictures,
        "times": {n: tuple(step * i for i in range(frames)) for n in streams},
    }


@pytest.fixture
def draw(tmp_path):
    def drawn(worst, best, episodes, title="Bench · val · score 1.00", subtitle="about"):
        path = tmp_path / "sheet.png"
        draw_answers(worst, best, episodes, title, subtitle, path)
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width == 1600
            return np.array(picture.convert("RGB")).astype(int)

    return drawn


def area(picture, colour, level=1.0) -> int:
    """Pixels of a colour, or nearly."""
    return int((np.abs(picture - level * np.array(COLOURS[colour])).max(-1) < 12).sum())


FRAME = 108 * 108


def test_four_frames_of_each_stream_are_drawn_from_the_first_to_the_last(draw):
    picture = draw([one()], [], {"c": episode("purple", "blue", frames=7)})
    for stream in ("purple", "blue"):
        for i in range(7):
            drawn = area(picture, stream, 1 - i / 8)
            wanted = FRAME if i in {0, 2, 4, 6} else 0
            assert drawn == pytest.approx(wanted, rel=0.05, abs=50), (stream, i)


def test_wide_frames_keep_their_shape_and_a_single_one_is_drawn_once(draw):
    picture = draw([one()], [], {"c": episode("blue", frames=1, size=(32, 64))})
    assert area(picture, "blue") == pytest.approx(FRAME / 2, rel=0.05)
    rows, columns = np.nonzero((picture == COLOURS["blue"]).all(-1))
    assert np.ptp(columns) + 1 == pytest.approx(108, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(54, abs=2)


def test_a_third_and_a_fourth_stream_get_a_line_of_their_own(draw):
    two, four = (draw([one()], [], {"c": episode(*list(COLOURS)[:n])}) for n in (2, 4))
    assert len(four) > len(two)
    for stream in COLOURS:
        assert area(four, stream) == pytest.approx(FRAME, rel=0.05)


def test_without_media_there_is_a_note_and_nothing_black(draw):
    failed = one(id="8", clip="gone", prediction=None)
    picture = draw([failed, one()], [], {"c": episode("blue")})
    assert area(picture, "blue") == pytest.approx(FRAME, rel=0.05)
    right = picture[:, 660:1560]
    assert (right.max(-1) < 30).sum() < 1000  # a black frame has more than ten times as many
    note = right[(right == 246).all(-1).mean(1) > 0.5]
    assert 100 <= len(note) <= 110 and (note.min(-1) < 200).any()  # a grey field with words on it


def test_worst_and_best_are_two_blocks(draw):
    def banners(picture):
        """The colours of full lines, from top to bottom."""
        full = picture[:, [40, 800, 1560]]
        solid = [line[0] for line in full if (line == line[0]).all() and np.ptp(line[0]) > 100]
        return ["red" if colour[0] > colour[1] else "green" for colour in solid]

    worst, best = [one()], [one(id="9", prediction="yes")]
    colours = banners(draw(worst, best, {"c": episode("blue")}))
    assert colours == ["red"] * colours.count("red") + ["green"] * colours.count("green")
    assert min(colours.count("red"), colours.count("green")) > 20
    assert set(banners(draw(worst, [], {}))) == {"red"}


@pytest.mark.parametrize(
    "other",
    [
        {"question": "Is it not?"},
        {"prediction": "maybe"},
        {"references": ("yes", "yes, it is")},
        {"id": "70"},
        {"figure": 1.0},
        {"title": "Bench · val · score 2.00"},
        {"subtitle": "something else"},
        {"options": ("a cat", "a dog"), "prediction": "B."},
        {"step": 1.0},
        {"stream": "lime"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_everything_that_is_said_is_drawn(draw, other):
    def sheet(figure=0.0, title="title", subtitle="subtitle", step=0.5, stream="blue", **answer):
        shown = episode("blue", step=step)
        streams = {stream: shown["streams"]["blue"]}
        shown = {"streams": streams, "times": {stream: shown["times"]["blue"]}}
        judged = one(**answer)._replace(figure=figure)
        return draw([judged], [], {"c": shown}, title, subtitle)

    plain = sheet(**({"prediction": other["prediction"]} if "options" in other else {}))
    assert (sheet(**other) != plain).any()


@pytest.mark.parametrize("letters", ["word " * 500, "W" * 500, "一" * 500])
def test_long_texts_stay_in_their_place(draw, letters):
    long = one(question=letters, prediction=letters, references=(letters, letters), clip=letters)
    sheets = [
        draw([judged, one()], [], {judged.answer.clip: episode("blue"), "c": episode("lime")})
        for judged in (one(clip="other"), long)
    ]
    assert sheets[0].shape == sheets[1].shape
    for part in (np.s_[:, 652:], np.s_[330:]):  # the frames, and the row below
        assert np.abs(sheets[0][part] - sheets[1][part]).max() < 40


@settings(max_examples=8)
@given(st.text(), st.sampled_from(["$x^{$", "\ud800 half", "日本語 🎉", "a\x00b\nc\td", "\\frac{"]))
def test_no_text_is_too_strange_to_be_drawn(tmp_path_factory, text, strange):
    path = tmp_path_factory.mktemp("sheet") / "sheet.png"
    judged = one(
        question=text + strange, prediction=strange, references=(text,), clip=text, id=text
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_answers([judged], [], {text: episode("blue")}, f"t {strange}", strange, path)
    assert path.stat().st_size > 0


def test_no_colour_gives_way_to_others(draw):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, 54, 54), dtype=torch.uint8, generator=generator)
    picture = draw([one()], [], {"c": {"streams": {"video": noise}, "times": {"video": [0.0]}}})
    drawn = {tuple(colour) for colour in picture.reshape(-1, 3).round(-1).tolist()}
    near = {
        tuple(c) for c in (noise[0].flatten(1).T.int() // 8 * 255 // 31).numpy().round(-1).tolist()
    }
    assert near <= drawn


def test_a_full_sheet_of_lively_frames_is_not_large(tmp_path):
    noise = torch.randint(104, 152, (8, 3, 80, 80), dtype=torch.uint8)
    shown = {
        "streams": {"video": noise[:4], "3d": noise[4:]},
        "times": {"video": [0.0] * 4, "3d": [0.0] * 4},
    }
    rows = [one(id=str(i)) for i in range(20)]
    draw_answers(rows[:10], rows[10:], {"c": shown}, "title", "subtitle", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < 3e6
