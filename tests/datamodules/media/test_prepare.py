import numpy as np
import pytest
from PIL import Image

from datamodules.media.prepare import prepare_7scenes
from datamodules.media.scannet import open_scene
from datamodules.samples import BadSample


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "chess"
    folder.mkdir()
    for i in (0, 7):
        depth = np.full((12, 16), 900 + i, np.uint16)
        depth[0, 0] = 65535
        Image.fromarray(depth).save(folder / f"frame-{i:06d}.depth.png")
        colour = np.full((12, 16, 3), i, np.uint8)
        Image.fromarray(colour).save(folder / f"frame-{i:06d}.color.{'jpg' if i else 'png'}")
        np.savetxt(folder / f"frame-{i:06d}.pose.txt", np.eye(4))
    np.savetxt(folder / "camera-intrinsics.txt", [[14.6, 0, 8], [0, 14.6, 6], [0, 0, 1]])
    return folder


def test_the_copy_reads_as_scannet(source, tmp_path):
    scene = open_scene(prepare_7scenes(source, tmp_path / "out"))
    assert scene.folder == tmp_path / "out" / "scans" / "chess"
    assert [frame.id for frame in scene.frames] == [0, 7]
    depth = scene.read_depth(scene.frames[1])
    assert depth[0, 0] == 0 and depth[1, 1] == 907
    assert scene.intrinsics[0].tolist() == [14.6, 0, 8]


def test_a_second_time_says_so_and_a_different_scene_is_refused(source, tmp_path, capsys):
    target = prepare_7scenes(source, tmp_path / "out", "office")
    before = (target / "depth" / "0.png").stat()
    prepare_7scenes(source, tmp_path / "out", "office")
    assert "already complete" in " ".join(capsys.readouterr().out.split())
    assert (target / "depth" / "0.png").stat() == before
    (target / "pose" / "7.txt").write_text("changed")
    with pytest.raises(FileExistsError, match=r"office exists and is not a copy .*remove it"):
        prepare_7scenes(source, tmp_path / "out", "office")
    assert (target / "pose" / "7.txt").read_text() == "changed"


@pytest.mark.parametrize("file", ["color.jpg", "pose.txt"])
def test_a_missing_file_leaves_nothing_behind(source, tmp_path, file):
    (source / f"frame-000007.{file}").unlink()
    with pytest.raises(BadSample, match=rf"000007.*has no .*{file}.*Copy the sequence again"):
        prepare_7scenes(source, tmp_path / "out")
    assert not list((tmp_path / "out" / "scans").iterdir())


def test_a_truncated_colour_frame_leaves_nothing_behind(source, tmp_path):
    path = source / "frame-000007.color.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadSample, match=r"frame-000007\.color\.jpg: cannot be decoded"):
        prepare_7scenes(source, tmp_path / "out")
    assert not list((tmp_path / "out" / "scans").iterdir())


def test_a_folder_that_is_no_sequence(tmp_path):
    with pytest.raises(BadSample, match=r"no camera-intrinsics\.txt.*fx = fy = 585"):
        prepare_7scenes(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("scene", ["../up", "a/b", ".hidden", ".."])
def test_a_scene_name_stays_in_the_output(source, tmp_path, scene):
    with pytest.raises(ValueError, match="is no folder name"):
        prepare_7scenes(source, tmp_path / "out", scene)
