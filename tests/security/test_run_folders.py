"""Files of a run folder that are damaged: each is one message, or is made again."""

import csv
from pathlib import Path

import pytest

from callbacks.kept_answers import KeptAnswers
from tests.security.conftest import DEEP
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics.answered import Answered, encoded
from vlynx_pl.runs.metrics_log import MetricsLog
from vlynx_pl.runs.provenance import add_session, last_session

MADE_WITH = {"backbone": "b"}
ASKED = encoded([Answered("a", "yes", ("yes",), labels={"kind": "b"}, times={"video": (0.5,)})])


@pytest.fixture
def kept(tmp_path) -> tuple[KeptAnswers, Path]:
    """A whole answer in a file that fits."""
    answers = KeptAnswers(tmp_path, "val", MADE_WITH)
    path = tmp_path / "answers-val.0.unfinished.jsonl"
    path.write_bytes(b'{"made_with": {"backbone": "b"}}\n' + ASKED)
    assert answers.read().keys() == {"a"} and not answers.remove_others()
    return answers, path


@pytest.mark.parametrize("header", [b"{}", b"[]", b"\xff", b""])
def test_answers_under_a_header_that_is_none(kept, header):
    answers, path = kept
    path.write_bytes(header + b"\n" + ASKED)
    assert not answers.read()
    assert answers.remove_others() == [path]


@pytest.mark.parametrize(
    "line", [ASKED[:-20], b"{}", b"null", b"\xff", ASKED.replace(b'"times"', b'"when"')]
)
def test_answers_that_are_none_are_asked_again(kept, line):
    answers, path = kept
    path.write_bytes(b'{"made_with": {"backbone": "b"}}\n' + line + b"\n")
    assert not answers.read()


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"step,b\n,2\n",
        b"step,b\n1," + b"x" * (csv.field_size_limit() + 1),
        b"step,b\n1,2,3\n",
        b"step,\xff\n1,2\n",
    ],
)
def test_metrics_that_are_none_are_neither_read_nor_written_over(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read .* move it away"):
        MetricsLog(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == content


@pytest.mark.parametrize("content", [DEEP, b'[{"a":' * 100_000, b"\xff"])
def test_sessions_that_are_none(tmp_path, content):
    (tmp_path / "provenance.json").write_bytes(content)
    with pytest.raises(UserError, match=r"provenance\.json cannot be read .* move it away"):
        last_session(tmp_path)
    with pytest.raises(UserError, match=r"provenance\.json cannot be read .* move it away"):
        add_session(tmp_path, {})
    assert (tmp_path / "provenance.json").read_bytes() == content
