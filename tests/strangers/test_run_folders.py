"""Run folders from a stranger: what is in them leads to no other file and is not believed."""

import csv
import os
from pathlib import Path

import pytest

from callbacks.kept_answers import KeptAnswers
from tests.strangers.conftest import DEEP
from vlynx_pl.errors import UserError
from vlynx_pl.metrics.answered import Answered, encoded
from vlynx_pl.metrics_log import MetricsLog
from vlynx_pl.provenance import add_session, last_session
from vlynx_pl.run_folder import RunFolderError, take


@pytest.mark.parametrize("there", ["a file", "a folder", "nothing"])
@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "config.yaml",
        "metrics.csv",
        "provenance.json",
        "tensorboard",
        "checkpoints",
        "adapters",
        "guidance.unfinished",
        "answers-val.0.unfinished.jsonl",
    ],
)
def test_a_link_in_a_run_folder_changes_nothing_elsewhere(tmp_path, name, there):
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    (run / name).symlink_to(victim)
    if there == "a file":
        victim.write_text("precious")
    elif there == "a folder":
        victim.mkdir()
    with pytest.raises(RunFolderError, match=rf"{name} is a symbolic link, .* --run=FOLDER"):
        take(run)
    assert victim.exists() == (there != "nothing")
    assert there != "a file" or victim.read_text() == "precious"
    assert [path.name for path in run.iterdir()] == [name]


def test_a_lock_that_becomes_a_link_meanwhile(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(Path, "is_symlink", lambda path: False)
    with pytest.raises(RunFolderError, match="cannot be written into"):
        take(tmp_path)
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_users_own_links_are_followed(tmp_path):
    """The folder itself may lie on another disk, and a file that is only read may be shared."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "run" / "guidance.safetensors").symlink_to(tmp_path / "shared")
    os.close(take(tmp_path / "run"))
    assert (tmp_path / "disk" / ".lock").is_file()


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


@pytest.mark.parametrize("header", [DEEP, b'{"a":' * 100_000, b"3", b"[]", b"{}", b"\xff", b""])
def test_answers_under_a_header_that_is_none(kept, header):
    answers, path = kept
    path.write_bytes(header + b"\n" + ASKED)
    assert not answers.read()
    assert answers.remove_others() == [path]


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        b'{"a":' * 100_000,
        b"3",
        b"[]",
        b"{}",
        b"null",
        b"\xff",
        ASKED.replace(b'"a"', b"[]"),
        ASKED.replace(b'"a"', b"3"),
        ASKED.replace(b'"yes", "references"', b'7, "references"'),
        ASKED.replace(b'["yes"]', b"[null]"),
        ASKED.replace(b'["yes"]', b"3"),
        ASKED.replace(b'{"kind": "b"}', b"3"),
        ASKED.replace(b'{"video": [0.5]}', b"null"),
        ASKED.replace(b'"times"', b'"when"'),
    ],
)
def test_answers_that_are_none_are_asked_again(kept, line):
    answers, path = kept
    assert line != ASKED
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
