import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vlynx_pl.io.files import atomic_file, atomic_folder


def put(kind, target, text):
    with kind(target) as unfinished:
        (unfinished / "a" if kind is atomic_folder else unfinished).write_text(text)


def text_of(kind, target):
    return (target / "a" if kind is atomic_folder else target).read_text()


def test_files_have_the_mode_of_the_umask(tmp_path):
    (tmp_path / "usual").touch()
    with atomic_file(tmp_path / "ours") as unfinished:
        unfinished.touch(mode=0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_a_full_disk_keeps_the_old_content_and_names_the_remedy(tmp_path, kind):
    target = tmp_path / "thing"
    put(kind, target, "old")
    with (
        pytest.raises(OSError, match=r"thing could not be written.*free some space") as error,
        kind(target) as unfinished,
    ):
        (unfinished / "a" if kind is atomic_folder else unfinished).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(error.value.__cause__, OSError), "the reason is kept"
    assert text_of(kind, target) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(OSError, match="a could not be written"), atomic_file(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_folders_in_a_folder_have_the_usual_modes_and_all_is_synced(tmp_path, monkeypatch):
    synced = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda it: (synced.add(os.fstat(it).st_ino), fsync(it))[1])
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / "file").touch()
    with atomic_folder(tmp_path / "thing") as unfinished:
        (unfinished / "a").mkdir(mode=0o700)
        (unfinished / "a" / "shared").mkdir()
        (unfinished / "a" / "shared").chmod(0o2755)  # its group is passed on
        (unfinished / "a" / "shared" / "file").touch(mode=0o600)
    made = [tmp_path / "thing", *(tmp_path / "thing").rglob("*")]
    modes = [stat.S_IMODE((tmp_path / "usual" / part).stat().st_mode) for part in ("", "file")]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in made} == {
        "thing": modes[0], "a": modes[0], "shared": modes[0] | 0o2755, "file": modes[1]
    }  # fmt: skip
    assert synced >= {path.stat().st_ino for path in [tmp_path, *made]}


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_writers_with_equal_process_ids_do_not_collide(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in every container
    target = tmp_path / "thing"
    with kind(target) as first:
        (first / "a" if kind is atomic_folder else first).write_text("first, which ends last")
        put(kind, target, "second, which ends first")
        assert text_of(kind, target) == "second, which ends first"
        (leftover,) = (path.name for path in tmp_path.iterdir() if path != target)
        assert leftover.startswith(".thing.") and leftover.endswith(".unfinished")
    assert text_of(kind, target) == "first, which ends last"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_threads_may_write_one_name_at_once(tmp_path, kind):
    texts = [str(i) * 5000 for i in range(8)]
    together = threading.Barrier(len(texts))

    def write(text):
        together.wait(30)
        for _ in range(20):
            put(kind, tmp_path / "thing", text)

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))  # raises what a thread raised
    assert text_of(kind, tmp_path / "thing") in texts
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_the_umask_of_other_threads_is_never_changed(tmp_path, monkeypatch, kind):
    # The umask belongs to the whole process, and threads too seldom meet there to race for it.
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask of all threads was set"))
    put(kind, tmp_path / "thing", "all")
