import json
import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.benchmarks import records
from datamodules.benchmarks.records import Record, read_list, read_object, read_records
from datamodules.samples import BadSample


def record(**fields):
    return Record(Path("notes.json"), "record 3 (id 7)", fields)


def refuses(call, *words):
    with pytest.raises(BadSample) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_a_message_names_file_record_field_and_both_sides():
    with pytest.raises(BadSample) as caught:
        record(video=5).text("video")
    assert str(caught.value) == (
        "notes.json: record 3 (id 7): video should be a text, found 5. "
        "Download the official file again, or correct it by hand"
    )
    assert caught.value.trouble == "unreadable"


NAN, INF, HUGE = float("nan"), float("inf"), 10**400


@pytest.mark.parametrize(
    ("read", "good", "bad", "words"),
    [
        (Record.text, [("a", "a")], [None, 3, True, "", "  \n", ["a"], {}, "a\ud800"], "a text"),
        (
            Record.texts,
            [(["a", "b"], ("a", "b"))],
            [[None], [3], ["a", " "], ["a\ud800"], "a"],
            "a list of",
        ),
        (Record.identifier, [("x-1", "x-1"), (22, "22")], [None, 2.5, False, "", [], {}], "an id"),
        (
            Record.seconds,
            [(3, 3.0), (0.5, 0.5)],
            [None, "3", True, -0.1, NAN, INF, HUGE],
            "a time in s",
        ),
        (
            partial(Record.index, length=4),
            [(3, 3)],
            [None, 2.0, True, "2", -1, 4, NAN, HUGE],
            "0 to 3",
        ),
        (
            partial(Record.one_of, choices="ABCD"),
            [(" B ", "B")],
            ["", "AB", "E", "a", None, 1, ["A"]],
            "one of A, B, C, D",
        ),
        (
            Record.texts_within,
            [('["left", "tuba"]', ("left", "tuba"))],
            ["[1]", "{}", "left", "['left']", '[""]', "[" * 5000, 5],
            "record 3 (id 7)",
        ),
    ],
)
def test_what_a_field_may_hold(read, good, bad, words):
    assert all(read(record(a=value), "a") == found for value, found in good)
    for value in bad:
        refuses(lambda value=value: read(record(a=value), "a"), "a", words)
    refuses(lambda: read(record(), "a"), "found nothing")


def test_texts_may_be_blank_or_few_only_where_that_is_allowed():
    assert record(a="").text("a", blank=True) == ""
    row = record(a=["", "b"])
    assert row.texts("a", blank=True) == ("", "b")
    refuses(lambda: row.texts("a"), "a list of 2")
    for most, words in ((3, "of 3 texts"), (5, "3 to 5")):
        refuses(lambda most=most: record(a=["x", "y"]).texts("a", 3, most), words, "a list of 2")


def test_the_last_of_equal_options_is_meant():
    assert record(a="x").choice("a", ["x", "y", "x"]) == 2
    refuses(lambda: record(a="X").choice("a", ["x", "y"]), "one of the options", "found 'X'")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["/etc", "../a", "a/../../b", "a/..", ".", "./", "C:a", "\\\\h\\a"], "relative path"),
        (["a\0b", "", " ", 5, None], "found"),
        (["a" * 241, "é" * 121, "a/" * 1001, "b/" + "a" * 300 + "/c"], "that a file system can"),
    ],
)
def test_paths_that_are_refused(names, words):
    for name in names:
        row = record(video=name)
        refuses(lambda row=row: row.media("video"), "record 3 (id 7): video should be", words)


def test_relative_paths_are_unchanged():
    for name in ("a.mp4", "a/b c/-x_1..2.mp4", "été/..a.mp4", ":b.mp4"):
        assert record(video=name).media("video") == name
    assert record(video="a{}").media("video", "x/{}.mp4") == "x/a{}.mp4"
    assert record(video="a" * 236).media("video", "b/{}.mp4")
    refuses(lambda: record(video="a" * 237).media("video", "{}.mp4"), "that a file system can")
    refuses(lambda: record(video="../a").media("video", "x/{}.mp4"), "relative path")


@given(st.text("./\\:aC~\0 ", max_size=8), st.sampled_from(["{}", "{}.mp4", "videos/{}"]))
def test_no_text_leads_out_of_the_root(name, form):
    root = Path("/data/root")
    try:
        path = record(video=name).media("video", form)
    except BadSample:
        return
    inside = Path(os.path.normpath(root / path))
    assert inside.is_relative_to(root) and inside != root


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><p>Sign in", "begins with '<!DOCTYPE html>"),
        (b"", "is not JSON"),
        (b'[{"a": 1},]', "is not JSON"),
        (b'[{"a": 1}', "is not JSON"),
        (b'[{"a": "\xff"}]', "is not UTF-8"),
        (b'[{"a": 1, "a": 2}]', "'a' occurs twice"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1" + b"0" * 9999 + b"]", "is not JSON"),
        (b'{"a": 1}', "a list of records, found an object with a"),
        (b"[]", "found a list of 0"),
        (b"null", "found null"),
        (b'[{"a": 1}, 7]', "record 1 should be an object, found 7"),
        (b'{"id": 1}{"id": 2}', "the file is not JSON (Extra data"),
        (b'{"id": 1},\n{"id": 2}', "the file is not JSON (Extra data"),
        (b'{"id": 1}\n{"id": 2} {"id": 3}', "line 2 is not JSON (Extra data"),
        (b'{"id": 1}\n\n{"id": ', "line 3 is not JSON"),
        (b'[{"id": 1}]\n{"id": 2}', "record 0 should be an object, found a list"),
        (b'{"id": 1}\n{"id": 2, "id": 3}', "'id' occurs twice"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    refuses(lambda: read_records(path), "a.json", words, "Download the official file again")


def test_deep_values_are_described_without_printing_them(tmp_path):
    path = tmp_path / "a.json"
    for depth in range(900, 1000, 7):
        path.write_text('[{"video": ' + "[" * depth + "]" * depth + "}]")
        refuses(lambda: read_records(path)[0].text("video"), "a.json")


def test_what_is_no_file_or_a_huge_one_is_not_even_opened(tmp_path):
    refuses(lambda: read_list(tmp_path), "is a folder, not a file")
    os.mkfifo(tmp_path / "pipe")
    refuses(lambda: read_list(tmp_path / "pipe"), "is not a file")
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(records.MAX_BYTES + 1)  # sparse
    refuses(lambda: read_list(path), "a.json", "bytes, more than")


def test_a_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_object(tmp_path / "a.json").fields == {"a": 1}
    refuses(lambda: read_records(tmp_path / "a.json"), "a list")


def test_lines_may_hold_other_line_separators(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a\u2028b"}\r\n\n{"id": 2}\n')
    assert [r.place for r in read_records(path, "id")] == [
        "record 0 (id 'a\\u2028b')",
        "record 1 (id 2)",
    ]
    path.write_text('{"id": 1}\n{"id"')
    refuses(lambda: read_records(path), "line 2 is not JSON")


def test_children_name_their_place():
    outer = record(rows=[{"id": 4}, {}], one={"x": 1}, empty=[], text="a")
    assert [r.place for r in outer.children("rows", "name", "id")] == [
        "record 3 (id 7), rows 0 (id 4)",
        "record 3 (id 7), rows 1",
    ]
    assert outer.child("one").place == "record 3 (id 7), one"
    refuses(lambda: outer.children("empty"), "empty should be a list of objects")
    refuses(lambda: outer.children("text"), "text should be a list of objects, found 'a'")
    refuses(lambda: outer.child("none"), "none should be an object, found nothing")
    refuses(lambda: outer.child("text"), "text should be an object, found 'a'")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text('aA["\n', max_size=4),
        st.lists,
        max_leaves=5,
    )
)
def test_any_value_of_any_field_is_accepted_or_refused(value):
    row = record(a=json.loads(json.dumps(value)))
    calls = [row.text, row.texts, row.texts_within, row.identifier, row.seconds, row.media]
    for call in [*calls, row.child, row.children, lambda a: row.one_of(a, ["A"])]:
        try:
            call("a")
        except BadSample as bad:
            assert len(str(bad)) < 600


LISTS = ['[{"id": 1}, {"id": 2}]', '[{"id": 1}]\n[{"id": 2}]', '[{"id": 1}]\r\n[{"id": 2}]\n[]\n']
LINES = ['{\n"id": 1\n}\n{"id": 2}', '\ufeff{"id": 1}\r\n\r\n{"id": 2}\r\n']


@pytest.mark.parametrize("content", [*LISTS, *LINES])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_lists_and_lines_are_read_under_either_suffix(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert [r.identifier("id") for r in read_records(tmp_path / name)] == ["1", "2"]
