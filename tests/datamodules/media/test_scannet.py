import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.media.scannet import maybe_empty, open_scene, read_pose
from datamodules.samples import BadSample


def refuses(folder, *parts):
    """Opening says all of this: file, reason, remedy."""
    with pytest.raises(BadSample) as caught:
        open_scene(folder)
    for part in parts:
        assert part in str(caught.value)


def test_a_scene_reads_in_order_of_time(tmp_path, write_scene):
    scene = open_scene(write_scene(tmp_path / "scene0707_01", [100, 20, 3]))
    assert scene.name == "scene0707_01"
    assert [frame.id for frame in scene.frames] == [3, 20, 100]
    assert not scene.dropped
    assert scene.colour_size == (24, 32) and scene.depth_size == (12, 16)
    assert scene.intrinsics.tolist() == [[16, 0, 7.5], [0, 16, 5.5], [0, 0, 1]]
    last = scene.frames[-1]
    assert scene.read_depth(last)[0, :3].tolist() == [1100, 1101, 1102]
    assert scene.read_colour(last).float().mean() == pytest.approx(100, abs=2)
    assert torch.equal(scene.read_pose(last), torch.eye(4, dtype=torch.float64))


def test_the_frames_square_layout_and_3x3_intrinsics(scene_folder):
    shutil.rmtree(scene_folder / "intrinsic")
    np.savetxt(scene_folder / "intrinsic_depth.txt", [[9, 0, 8], [0, 9, 6], [0, 0, 1]])
    assert open_scene(scene_folder).intrinsics[0].tolist() == [9, 0, 8]


@pytest.mark.parametrize("name", ["intrinsics_depth.txt", "intrinsics/intrinsic_depth.txt"])
def test_scannet_frames_25k_as_it_is_downloaded(scene_folder, name):
    shutil.rmtree(scene_folder / "intrinsic")
    (scene_folder / name).parent.mkdir(exist_ok=True)
    np.savetxt(scene_folder / name, np.diag([9.0, 9, 1, 1]) + 0)
    for path in [*scene_folder.glob("*/*.*g"), *scene_folder.glob("pose/*.txt")]:
        path.rename(path.with_name(f"{int(path.stem):06d}{path.suffix}"))
    (scene_folder / "label").mkdir()
    scene = open_scene(scene_folder)
    assert [frame.id for frame in scene.frames] == [0, 20, 40]
    assert scene.intrinsics_file == scene_folder / name and scene.intrinsics[0, 0] == 9


@pytest.mark.parametrize(
    ("pose", "reason"),
    [
        (np.full((4, 4), -np.inf), "pose is not finite"),
        (np.eye(4)[:3], "pose is 3x4, not 4x4"),
        (np.diag([2.0, 1, 1, 1]), "not a rotation"),
        (np.diag([1.0, 1, -1, 1]), "not a rotation"),
    ],
)
def test_a_frame_without_a_usable_pose_is_dropped_and_listed(scene_folder, pose, reason):
    np.savetxt(scene_folder / "pose" / "20.txt", pose)
    scene = open_scene(scene_folder)
    assert [frame.id for frame in scene.frames] == [0, 40]
    assert list(scene.dropped) == [20] and reason in scene.dropped[20]
    with pytest.raises(BadSample, match=rf"20\.txt: .*{reason}.*Leave the frame out"):
        read_pose(scene_folder / "pose" / "20.txt")


@pytest.mark.parametrize("text", ["", "1 2 3\n4 5", "one two", "\x00\xff"])
def test_a_damaged_or_missing_pose_drops_its_frame(scene_folder, text):
    (scene_folder / "pose" / "20.txt").write_text(text, encoding="latin-1")
    (scene_folder / "pose" / "0.txt").unlink()
    assert open_scene(scene_folder).dropped.keys() == {0, 20}
    assert open_scene(scene_folder).dropped[0] == "no pose file"


@pytest.mark.parametrize("value", [0, 65535])
def test_a_frame_without_depth_is_dropped_and_listed(scene_folder, value):
    Image.fromarray(np.full((12, 16), value, np.uint16)).save(scene_folder / "depth" / "20.png")
    scene = open_scene(scene_folder)
    assert [frame.id for frame in scene.frames] == [0, 40]
    assert scene.dropped == {20: "no depth in any pixel"}


def test_flat_depth_compresses_as_well_and_stays(scene_folder):
    Image.fromarray(np.full((12, 16), 1000, np.uint16)).save(scene_folder / "depth" / "20.png")
    one = np.zeros((12, 16), np.uint16)
    one[3, 4] = 700
    Image.fromarray(one).save(scene_folder / "depth" / "40.png")
    assert not open_scene(scene_folder).dropped


def test_damaged_depth_is_not_taken_for_empty(scene_folder):
    (scene_folder / "depth" / "20.png").write_bytes(b"")
    scene = open_scene(scene_folder)
    assert not scene.dropped
    with pytest.raises(BadSample, match=r"20\.png: cannot be decoded"):
        scene.read_depth(scene.frames[1])


@pytest.mark.parametrize("level", [1, 6, 9])
def test_empty_depth_is_found_at_every_level_of_compression(tmp_path, level):
    path = tmp_path / "0.png"
    for value in (0, 65535):
        image = Image.fromarray(np.full((480, 640), value, np.uint16))
        image.save(path, compress_level=level)
        assert maybe_empty(path.stat().st_size, (480, 640))
    noise = np.random.default_rng(0).integers(400, 4000, (480, 640), np.uint16)
    Image.fromarray(noise).save(path, compress_level=level)
    assert not maybe_empty(path.stat().st_size, (480, 640))


def test_no_usable_frame_is_an_error(scene_folder):
    for path in (scene_folder / "pose").iterdir():
        np.savetxt(path, np.full((4, 4), -np.inf))
    refuses(scene_folder, str(scene_folder), "no usable frame", "not finite", "leave it out")


@pytest.mark.parametrize("part", ["color", "depth", "pose"])
def test_a_missing_or_empty_folder(scene_folder, part):
    for path in (scene_folder / part).iterdir():
        path.unlink()
    refuses(scene_folder, str(scene_folder / part), "holds no", "Export the scene again")
    (scene_folder / part).rmdir()
    refuses(scene_folder, str(scene_folder), f"no folder {part}/", "Export the scene again")


def test_missing_intrinsics(scene_folder):
    shutil.rmtree(scene_folder / "intrinsic")
    refuses(scene_folder, str(scene_folder), "intrinsic_depth.txt", "Export the scene again")


@pytest.mark.parametrize("matrix", [np.eye(2), np.zeros((4, 4)), np.full((3, 3), np.nan)])
def test_impossible_intrinsics(scene_folder, matrix):
    np.savetxt(scene_folder / "intrinsic" / "intrinsic_depth.txt", matrix)
    refuses(scene_folder, "intrinsic_depth.txt", "positive fx and fy", "Export the scene again")


def test_unequal_frame_counts(scene_folder):
    (scene_folder / "color" / "40.jpg").unlink()
    refuses(scene_folder, str(scene_folder), "2 colour and 3 depth", "frame 40", "together")


def test_colour_and_depth_of_different_aspect(tmp_path, write_scene):
    folder = write_scene(tmp_path / "s", [5], (24, 32), (16, 16))
    refuses(folder, "5.png", "16x16", "32x24", "uncropped")


@pytest.mark.parametrize("name", ["frame-1.png", "00.png", "-1.png"])
def test_a_frame_without_a_number_of_its_own(scene_folder, name):
    shutil.copy(scene_folder / "depth" / "0.png", scene_folder / "depth" / name)
    refuses(scene_folder, name, "not named by a unique frame number", "Rename or remove")


def test_other_files_are_not_frames(scene_folder):
    (scene_folder / "depth" / "._0.png").touch()
    (scene_folder / "depth" / "Thumbs.db").touch()
    assert len(open_scene(scene_folder).frames) == 3


@pytest.mark.parametrize(("part", "file"), [("color", "40.jpg"), ("depth", "40.png")])
def test_a_frame_of_another_size_than_the_first(scene_folder, part, file):
    path = scene_folder / part / file
    image = Image.open(path)
    image.resize((8, 6)).save(path)
    scene = open_scene(scene_folder)
    read = scene.read_colour if part == "color" else scene.read_depth
    read(scene.frames[0])
    with pytest.raises(BadSample, match=rf"{file}: is 8x6, .* first frame is .*one size"):
        read(scene.frames[-1])
