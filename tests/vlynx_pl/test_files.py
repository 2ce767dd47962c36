import errno

import pytest

from vlynx_pl.files import atomic_file, atomic_folder


def test_a_file_appears_whole(tmp_path):
    with atomic_file(tmp_path / "new" / "a.txt") as unfinished:
        unfinished.write_text("all")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "all"


def test_a_file_may_be_read_by_whom_the_umask_allows(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_file(tmp_path / "ours") as unfinished:
        unfinished.touch(mode=0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_no_space_left_keeps_what_was_there_and_says_what_to_do(tmp_path, kind):
    target = tmp_path / "thing"
    with kind(target) as unfinished:
        (unfinished / "a" if kind is atomic_folder else unfinished).write_text("old")
    with (
        pytest.raises(OSError, match=r"thing could not be written.*free some space") as error,
        kind(target) as unfinished,
    ):
        (unfinished / "a" if kind is atomic_folder else unfinished).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(error.value.__cause__, OSError), "the reason is kept"
    assert (target / "a" if kind is atomic_folder else target).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "thing") as unfinished:
            (unfinished / name).write_text(name)
    assert [path.name for path in (tmp_path / "thing").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
