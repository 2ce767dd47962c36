"""Zips of scenes that strangers send."""

import shutil
import zipfile

import pytest

from datamodules.media.archive import extract_scene
from datamodules.media.scannet import open_scene
from datamodules.samples import BadSample

COLOUR = ("scene/color/0.jpg", b"x")
LARGE = 2**30


@pytest.fixture
def extract(tmp_path):
    """Zips members, (name, content) each, and unpacks them: → the folder."""

    def run(*members, most=LARGE, **options):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", **options) as archive:
            for name, content in members:
                archive.writestr(name, content)
        (tmp_path / "scene").mkdir()
        return extract_scene(tmp_path / "a.zip", tmp_path / "scene", most)

    return run


@pytest.mark.parametrize("above", ["", "scene0000_00", "a/b"])
def test_a_scene_is_unpacked_wherever_it_is_in_the_archive(scene_folder, extract, above):
    files = [path for path in scene_folder.rglob("*") if path.is_file()]
    members = [(f"{above}/{path.relative_to(scene_folder)}".lstrip("/"), path) for path in files]
    others = [("__MACOSX/._a", b"x"), ("notes.md", b"x"), (f"{above}/label/0.png".lstrip("/"), b"")]
    folder = extract(*[(name, path.read_bytes()) for name, path in members], *others)
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert found == {path.relative_to(scene_folder) for path in files}
    expected, scene = open_scene(scene_folder), open_scene(folder)
    for one, other in zip(expected.frames, scene.frames, strict=True):
        assert expected.read_depth(one).equal(scene.read_depth(other))


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../../color/0.jpg", b"x")], "names '../../color/0.jpg', which leads out of it"),
        ([("/color/0.jpg", b"x")], "which leads out of it"),
        ([("..\\color\\0.jpg", b"x")], "which leads out of it"),
        ([("C:/color/0.jpg", b"x")], "which leads out of it"),
        ([("a/color/0.jpg", b"x"), ("b/color/0.jpg", b"x")], "holds 2 scenes"),
        ([("notes.txt", b"x")], "holds 0 scenes"),
        ([(f"color/{i}.jpg", b"") for i in range(60_001)], "holds 60001 files; 60000 are read"),
        ([COLOUR, ("scene/Color/0.jpg", b"y")], "two files of the same name"),
    ],
)
def test_other_archives_are_refused(extract, tmp_path, members, message):
    with pytest.raises(BadSample) as caught:
        extract(*members)
    assert message in str(caught.value) and "Zip the scene's folder again" in str(caught.value)
    assert not any((tmp_path / "scene").iterdir())


def test_a_link_becomes_a_file(extract):
    folder = extract(COLOUR, (link("scene/color/1.jpg"), "/etc/passwd"))
    assert (folder / "color" / "1.jpg").read_text() == "/etc/passwd"
    assert not (folder / "color" / "1.jpg").is_symlink()


def test_an_archive_that_unpacks_to_too_much_is_refused(extract, tmp_path):
    bomb = ("color/0.jpg", bytes(2**24)), ("color/1.jpg", bytes(2**24))
    with pytest.raises(BadSample, match=r"unpacks to more than the limit, at 'color/1\.jpg'"):
        extract(*bomb, most=2**24 + 2**20, compression=zipfile.ZIP_DEFLATED)
    written = sum(path.stat().st_size for path in (tmp_path / "scene" / "color").iterdir())
    assert (tmp_path / "a.zip").stat().st_size < 2**17 < written <= 2**24 + 2**20


def test_an_archive_compressed_in_an_unusual_way_is_refused(extract):
    with pytest.raises(BadSample, match="compressed in an unusual way"):
        extract(COLOUR, compression=zipfile.ZIP_BZIP2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-10],
        lambda whole: b"",
        lambda whole: b"PK" * 500,
        lambda whole: whole[:20] + b"\xff" * 20 + whole[40:],  # the header of its first file
    ],
)
def test_damaged_archives_are_refused(extract, tmp_path, damage):
    extract(COLOUR)
    shutil.rmtree(tmp_path / "scene")
    (tmp_path / "scene").mkdir()
    archive = tmp_path / "a.zip"
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(BadSample, match="is not a zip file that can be read"):
        extract_scene(archive, tmp_path / "scene", LARGE)
