"""Finding media whatever the case of their suffixes, and among folders named like them."""

import pytest

from datamodules.benchmarks import AVQA
from datamodules.media.files import find_media, media_file
from datamodules.media.sampling import Uniform
from datamodules.media.scannet import open_scene
from datamodules.media.scannet_splits import find_scenes
from datamodules.media.video import Request, read_video
from datamodules.modalities.ego import Take
from datamodules.samples import BadSample


@pytest.mark.parametrize("there", ["a.mp4", "a.Mp4", "videos/a.WebM", "a.AVI"])
@pytest.mark.parametrize("name", ["a", "a.mp4", "a.MP4"])
def test_a_suffix_in_any_case(tmp_path, there, name):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert media_file(tmp_path, name) == path
    assert find_media(tmp_path) == [(path.name, path)]


def test_the_name_itself_comes_first_and_stems_keep_their_case(tmp_path):
    for name in ("a.mp4", "a.MP4", "B.mp4", "c.WAV"):
        (tmp_path / name).touch()
    assert media_file(tmp_path, "a.MP4").name == "a.MP4"
    assert media_file(tmp_path, "a").name == "a.mp4"
    assert media_file(tmp_path, "c.mp4", sound=True).name == "c.WAV"
    for name, sound in (("b.mp4", False), ("c.mp4", False)):
        with pytest.raises(BadSample, match="is missing"):
            media_file(tmp_path, name, sound)


def test_a_folder_named_like_a_video(tmp_path):
    (tmp_path / "a.mp4" / "inner").mkdir(parents=True)
    (tmp_path / "b.MP4").mkdir()
    (tmp_path / "b.MP4" / "c.mp4").touch()
    assert [name for name, _ in find_media(tmp_path)] == ["a.mp4", "b.MP4/c.mp4"]
    with pytest.raises(BadSample, match=r"a\.mp4: is a folder, not a video file"):
        read_video(media_file(tmp_path, "a.mp4"), [Request(Uniform(1))])


def test_a_file_where_a_folder_is_expected(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for look in (
        lambda: media_file(file, "a.mp4"),
        lambda: find_scenes(file),
        lambda: open_scene(file),
        lambda: AVQA(file).episodes("train"),
        lambda: Take("take", file).views(),
    ):
        with pytest.raises(BadSample, match="file: is a file, not a folder") as caught:
            look()
        assert caught.value.remedy


def test_views_of_a_take_in_capitals(tmp_path):
    for name in ("aria01_214-1.MP4", "cam01.Mp4"):
        (tmp_path / name).touch()
    assert [path.name for path in Take("take", tmp_path).views().values()] == [
        "aria01_214-1.MP4",
        "cam01.Mp4",
    ]
    named = Take("take", tmp_path, (("exo1", tmp_path / "cam01.mp4"),), tmp_path)
    assert named.views()["exo1"].name == "cam01.Mp4"
