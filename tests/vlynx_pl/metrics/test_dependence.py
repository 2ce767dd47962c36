"""Whether answers depend on a stream, by answers that were made up."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from datamodules.benchmarks import AVUT, ScanQA
from vlynx_pl.metrics import Answered
from vlynx_pl.metrics.dependence import (
    dependence,
    dependence_table,
    independent,
    kinds_of,
)

WITHOUT, OTHER = "without 3d", "another clip's 3d"


def answers(right, seed=0, clips=30, asked=("How far is it?", "What colour is it?")):
    """Answers to four questions on each clip, right with a probability for each kind."""
    random = np.random.default_rng(seed)
    return [
        Answered(
            f"{clip}-{number}",
            "A" if random.random() < right[number % 2] else "B",
            ("A",),
            clip=f"{clip}",
            question=asked[number % 2],
            labels={"task": asked[number % 2].split()[1]},
        )
        for clip in range(clips)
        for number in range(4)
    ]


def compared(as_is, **ways):
    names = {"without": WITHOUT, "other": OTHER}
    again = {names[way]: said for way, said in ways.items()}
    return dependence(as_is, again, AVUT.protocol.figures)


@pytest.mark.parametrize("right", [(0.9, 0.9), (0.7, 0.95), (0.8, 0.4)])
def test_a_run_that_uses_its_stream_is_not_warned_about(right):
    """With another clip's, the questions that need it fall to chance."""
    found = compared(answers(right), other=answers((0.25, right[1]), seed=1))
    assert independent(found, "3d") is None
    assert found[OTHER]["interval"].low > 0


@pytest.mark.parametrize("changed", [0, 12])
def test_a_run_that_ignores_its_stream_is_warned_about(changed):
    as_is = answers((0.6, 0.9))
    other = list(as_is)
    for i in range(changed):  # as many become right as become wrong
        wanted, said = ("A", "B") if i % 2 else ("B", "A")
        place = next(n for n, one in enumerate(other) if one is as_is[n] and one.text == wanted)
        other[place] = replace(other[place], prediction=said)
    found = compared(as_is, other=other)
    warning = independent(found, "3d")
    assert "the answers do not depend on 3d: with another clip's 3d, avut/strict is" in warning
    assert f"{100 * changed / len(as_is):.0f} % of the answers change" in warning


def test_kinds_of_questions_differ_in_what_they_need():
    as_is = answers((0.9, 1))
    found = compared(as_is, without=answers((0.3, 1), seed=1), other=answers((0.2, 1), seed=2))
    kinds = found[OTHER]["kinds"]
    assert kinds["task far"]["interval"].low > 30
    assert kinds["task colour"]["interval"] == (0, 0)
    far = [one for one in answers((0.2, 1), seed=2) if "far" in one.question]
    assert kinds["task far"]["score"] == pytest.approx(
        100 * sum(one.text == "A" for one in far) / len(far)
    )
    assert json.loads(json.dumps(found))["figure"] == "avut/strict"
    printed = io.StringIO()
    Console(file=printed, width=100).print(dependence_table(found))
    rows = [line.split("│") for line in printed.getvalue().splitlines() if "│" in line]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert cells["score"][0] == f"{found['score']:.2f}"
    assert cells["difference"][2] == f"{found[OTHER]['difference']:+.2f}"
    assert cells["task far (60)"][2] == f"{kinds['task far']['score']:.2f}"


def test_questions_without_labels_are_grouped_by_how_they_begin():
    plain = [replace(one, labels={}) for one in answers((1, 1), clips=2)]
    sizes = {kind: len(ids) for kind, ids in kinds_of(plain).items()}
    assert sizes == {"all": 8, "how far": 4, "what colour": 4}


def test_one_clip_gives_no_interval_and_no_warning():
    as_is = answers((0.5, 0.5), clips=1)
    found = compared(as_is, without=as_is, other=as_is)
    assert "interval" not in found[OTHER] and independent(found, "3d") is None


def test_the_quick_headline_of_captions_is_that_of_all_figures():
    said = [replace(one, references=(f"a dog {one.clip}",)) for one in answers((1, 0), clips=3)]
    quick = ScanQA.protocol.quick(said)
    name = next(iter(quick))
    assert name == "scanqa/cider" and not any("meteor" in figure for figure in quick)
    found = dependence(said, {OTHER: said}, ScanQA.protocol.quick)
    assert found["figure"] == name and found[OTHER]["difference"] == 0
