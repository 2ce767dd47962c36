"""Damaged files in a run folder: each is one message, or is made again."""

import csv

import pytest

from callbacks.kept_answers import KeptAnswers
from tests.security.conftest import DEEP
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics.answered import Answered, encoded
from vlynx_pl.runs.metrics_log import MetricsLog
from vlynx_pl.runs.provenance import add_session, last_session

ANSWER = Answered("a", "yes", ("yes",), labels={"kind": "b"}, times={"video": (0.5,)})
LINE = encoded([ANSWER])


@pytest.mark.parametrize(
    "line", [LINE[:-20], b"{}", b"null", DEEP, b"\xff", LINE.replace(b'"times"', b'"when"')]
)
def test_damaged_kept_answers_are_asked_again(tmp_path, line):
    kept = KeptAnswers(tmp_path, "val", {})
    kept.keep([ANSWER])
    assert kept.read().keys() == {"a"}
    [path] = tmp_path.iterdir()
    path.write_bytes(line + b"\n")
    assert not kept.read()


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
def test_damaged_metrics_are_neither_read_nor_overwritten(tmp_path, content):
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read .* move it away"):
        MetricsLog(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == content


@pytest.mark.parametrize("content", [DEEP, b'[{"a":' * 100_000, b"\xff"])
def test_damaged_provenance(tmp_path, content):
    (tmp_path / "provenance.json").write_bytes(content)
    with pytest.raises(UserError, match=r"provenance\.json cannot be read .* move it away"):
        last_session(tmp_path)
    with pytest.raises(UserError, match=r"provenance\.json cannot be read .* move it away"):
        add_session(tmp_path, {})
    assert (tmp_path / "provenance.json").read_bytes() == content
