"""Zips of a download, unpacked beside themselves."""

import shutil
import zipfile
from collections import namedtuple

import pytest

from datamodules.media.unpacking import count_packed, unpack, zips
from datamodules.samples import BadSample

USAGE = namedtuple("USAGE", "total used free")


def write_zip(path, *members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".zip")
    return {path.relative_to(folder).as_posix() for path in found}


def test_each_zip_is_unpacked_beside_itself(tmp_path):
    write_zip(tmp_path / "videos_chunked_01.zip", ("data/a.mp4", b"one"), ("data/b.MP4", b"two"))
    write_zip(tmp_path / "subtitle.zip", ("subtitle/a.srt", b"1"), ("__MACOSX/._a.srt", b"x"))
    write_zip(tmp_path / "video" / "tvqa.zip", ("tvqa/x/00001.jpg", b"jpg"), ("setup.py", b"x"))
    unpack(tmp_path)
    unpacked = {"data/a.mp4", "data/b.MP4", "subtitle/a.srt", "video/tvqa/x/00001.jpg"}
    assert files(tmp_path) == unpacked
    assert (tmp_path / "data" / "a.mp4").read_bytes() == b"one"
    assert len(zips(tmp_path)) == 3 and [count_packed(one) for one in zips(tmp_path)] == [0, 0, 0]


def test_what_is_there_stays_and_the_rest_is_unpacked(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ("data/a.mp4", b"one"), ("data/b.mp4", b"two"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").write_bytes(b"mine")
    assert count_packed(archive) == 1
    unpack(tmp_path)
    assert (tmp_path / "data" / "a.mp4").read_bytes() == b"mine"
    assert (tmp_path / "data" / "b.mp4").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["../a.mp4", "/elsewhere/a.mp4", "..\\a.mp4", "data/../../a.mp4"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    write_zip(tmp_path / "download" / "a.zip", ("data/b.mp4", b"x"), (name, b"x"))
    with pytest.raises(BadSample, match="leads out of it"):
        unpack(tmp_path / "download")
    assert files(tmp_path) == set()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "data").symlink_to(tmp_path)
    write_zip(tmp_path / "download" / "a.zip", ("data/b.mp4", b"x"))
    with pytest.raises(BadSample, match="leads out of it"):
        unpack(tmp_path / "download")
    assert not (tmp_path / "b.mp4").exists()


def test_a_download_that_was_cut_off_is_named(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ("data/a.mp4", bytes(1000)))
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(BadSample, match=r"a\.zip: is not a zip file .* Download it again"):
        unpack(tmp_path)


def test_a_damaged_file_leaves_nothing(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ("data/a.mp4", b"toy" * 100))
    archive.write_bytes(archive.read_bytes().replace(b"toytoy", b"yoyoyo", 1))
    with pytest.raises(BadSample, match="Bad CRC-32"):
        unpack(tmp_path)
    assert not any((tmp_path / "data").iterdir())


def test_a_zip_that_does_not_fit_the_disk_is_refused(tmp_path, monkeypatch):
    write_zip(tmp_path / "a.zip", ("data/a.mp4", bytes(4000)), compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(9000, 8000, 1000))
    with pytest.raises(BadSample, match=r"unpacks to 0\.0 GB, and its disk has 0\.0 GB left"):
        unpack(tmp_path)
    assert files(tmp_path) == set()


def test_a_folder_without_zips_is_named(tmp_path):
    with pytest.raises(BadSample, match=r"holds no \*\.zip"):
        unpack(tmp_path)
    with pytest.raises(BadSample, match="is missing"):
        unpack(tmp_path / "nowhere")
