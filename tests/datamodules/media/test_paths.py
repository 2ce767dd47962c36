from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.paths import inside
from datamodules.samples import BadSample

SOURCE = Path("annotations.json")


@pytest.mark.parametrize("name", ["a.mp4", "takes/x/aria01_214-1.mp4", "with space/ü.mp4", "..mp4"])
def test_names_below_the_root(tmp_path, name):
    assert inside(tmp_path, name, SOURCE) == tmp_path / name


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "x/../../a", "x/../a", "a\0b"])
def test_names_that_leave_the_root_or_are_empty(tmp_path, name):
    with pytest.raises(BadSample, match=r"annotations\.json: names .*inside.*Correct the annotat"):
        inside(tmp_path, name, SOURCE)


def test_links_out_of_the_root_and_in_a_circle(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root)
    (root / "a").symlink_to(root / "b")
    (root / "b").symlink_to(root / "a")
    assert inside(root, "in/x.mp4", SOURCE) == root / "in" / "x.mp4"
    for name in ("out/x.mp4", "out", "a", "b/x.mp4"):
        with pytest.raises(BadSample):
            inside(root, name, SOURCE)


def test_a_root_that_is_a_link_itself(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "root", "x", SOURCE) == tmp_path / "root" / "x"


@given(st.text(st.sampled_from("./ab\\~"), max_size=12))
def test_whatever_comes_back_is_below_the_root(name):
    root = Path("/data/root")
    try:
        path = inside(root, name, SOURCE)
    except BadSample:
        return
    assert path.resolve().is_relative_to(root)
