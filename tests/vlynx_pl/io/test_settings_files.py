"""Errors in a file of settings name the file and line."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlynx_pl.io.errors import UserError
from vlynx_pl.io.settings_files import check_settings_files
from vlynx_pl.runs.run_folder import plain_data

TWICE = {
    "nested": ("model:\n  init_args:\n    rank: 4\n    alpha: 3\n    rank: 8\n", 5, 3),
    "quoted": ("a: 1\n'a': 2\n", 2, 1),
    "merged": ("a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", 4, 3),
}


@pytest.mark.parametrize("case", TWICE)
@pytest.mark.parametrize("given", ["--config={}", "--config {}", "-c {}", "--data={}"])
def test_a_repeated_key_is_refused_with_file_and_line(tmp_path, case, given):
    text, line, first = TWICE[case]
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"mine.yaml, line {line}: the key .* in line {first} of"):
        check_settings_files(["fit", *given.format(path).split(), "--trainer.max_epochs=2"])
    with pytest.raises(yaml.YAMLError, match=f"line {line}"):
        plain_data(path)


@given(st.recursive(st.integers(), lambda some: st.dictionaries(st.text(), some), max_leaves=9))
def test_files_without_repeated_keys_are_read_as_yaml(tmp_path_factory, settings):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"a": settings, "b": [settings]}), encoding="utf-8")
    check_settings_files([f"--config={path}"])
    assert plain_data(path) == {"a": settings, "b": [settings]}


def test_overriding_a_merged_key_is_allowed(tmp_path):
    path = tmp_path / "merge.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nmine:\n  <<: *base\n  a: 3\n")
    check_settings_files(["--config", str(path)])
    assert plain_data(path)["mine"] == {"a": 3, "b": 2}


WRONG = {
    "Latin-1": ("a: ö\n".encode("latin-1"), "is not UTF-8"),
    "tab": (b"a:\n\tb: 2\n", "line 2: .*cannot start any token"),
    "two anchors": (b"a: &x 1\nb: &x 2\n", "line 2: found duplicate anchor 'x'"),
    "zero": (b"a: \x00\n", "special characters are not allowed"),
    "list": (b"- a\n", "contains no settings"),
    "deep": (b"[" * 5000, "is not YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_without_settings_is_named_with_the_reason(tmp_path, case):
    content, reason = WRONG[case]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"mine\.yaml.*{reason}"):
        check_settings_files([f"--config={path}"])


def test_a_byte_order_mark_and_other_files_are_accepted(tmp_path):
    (tmp_path / "bom.yaml").write_text("a: 1\n", encoding="utf-8-sig")
    (tmp_path / "annotations.json").write_text("[1, 2]")
    check_settings_files([f"--config={tmp_path}/bom.yaml", f"--data={tmp_path}/annotations.json"])
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        check_settings_files(["--config", str(tmp_path)])
