import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datamodules.media.prepare import evenly_spaced, prepare_7scenes, prepare_scannet
from datamodules.media.scannet import open_scene
from datamodules.samples import BadSample
from tests.datamodules.media.recordings import (
    JPEG,
    LOST,
    RAW,
    RAW_USHORT,
    ZLIB_USHORT,
    colour_of,
    depth_of,
    encoded,
    frame_bytes,
    pose_of,
    write_sens,
)


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


def test_a_frame_without_depth_is_copied_and_said_to_be_dropped(source, tmp_path, capsys):
    Image.fromarray(np.full((12, 16), 65535, np.uint16)).save(source / "frame-000007.depth.png")
    scene = open_scene(prepare_7scenes(source, tmp_path / "out"))
    assert [frame.id for frame in scene.frames] == [0]
    said = " ".join(capsys.readouterr().out.split())
    assert "readers will drop 1 frames (7): no depth in any pixel" in said


def test_depth_of_another_unit_is_doubted_or_becomes_mm(source, tmp_path, capsys):
    for path in source.glob("*.depth.png"):
        depth = np.asarray(Image.open(path)).astype(np.uint16)
        Image.fromarray(np.where(depth == 65535, 0, depth * 10)).save(path)
    doubted = open_scene(prepare_7scenes(source, tmp_path / "out", "doubted"))
    assert doubted.read_depth(doubted.frames[1])[1, 1] == 9070
    said = " ".join(capsys.readouterr().out.split())
    assert "doubted: only 0% of the measured pixels" in said
    assert "not that of depth_scale=1000, but 10000 (0.1 mm)" in said
    scene = open_scene(prepare_7scenes(source, tmp_path / "out", "right", 10_000))
    assert scene.read_depth(scene.frames[1])[1, 1] == 907
    assert "depth_scale" not in capsys.readouterr().out
    with pytest.raises(BadSample, match=r"depth \(at 100 units per metre\) up to 90 m.*--depth-sc"):
        prepare_7scenes(source, tmp_path / "out", "far", 100)


@pytest.mark.parametrize(
    ("file", "left", "reason"),
    [
        ("color.jpg", None, r"has no .*color\.jpg.*Copy the sequence again"),
        ("pose.txt", None, r"has no .*pose\.txt.*Copy the sequence again"),
        ("color.jpg", 500, "cannot be decoded"),
    ],
)
def test_a_missing_or_truncated_file_leaves_nothing_behind(source, tmp_path, file, left, reason):
    path = source / f"frame-000007.{file}"
    data = path.read_bytes()
    path.unlink()
    if left:
        path.write_bytes(data[:left])
    with pytest.raises(BadSample, match=f"frame-000007.*{reason}"):
        prepare_7scenes(source, tmp_path / "out")
    assert not list((tmp_path / "out" / "scans").iterdir())


def test_a_folder_that_is_no_sequence(tmp_path):
    with pytest.raises(BadSample, match=r"no camera-intrinsics\.txt.*fx = fy = 585"):
        prepare_7scenes(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("scene", ["../up", "a/b", ".hidden", ".."])
def test_a_scene_name_stays_in_the_output(source, tmp_path, scene):
    with pytest.raises(ValueError, match="is not a folder name"):
        prepare_7scenes(source, tmp_path / "out", scene)


def record(path, count=10, lost=(), empty=(), colour=JPEG, depth=ZLIB_USHORT, **header):
    """Frames in ``lost`` have no pose, those in ``empty`` no depth."""
    frames = [
        frame_bytes(
            number,
            colour,
            depth,
            pose=LOST if number in lost else None,
            values=depth_of(number) * (number not in empty),
        )
        for number in range(count)
    ]
    return write_sens(path, frames, colour=colour, depth=depth, **header)


@pytest.fixture
def sens(tmp_path):
    return record(tmp_path / "scene0707_00.sens", lost=(3, 9))


def numbers(folder):
    return sorted(int(path.stem) for path in folder.iterdir())


def test_an_export_of_all_frames_is_what_was_recorded(sens, tmp_path, capsys):
    folder = prepare_scannet(sens, tmp_path / "out", frames=None)
    assert folder == tmp_path / "out" / "scans" / "scene0707_00"
    for part in ("color", "depth", "pose"):
        assert numbers(folder / part) == list(range(10))
    scene = open_scene(folder)
    assert [frame.id for frame in scene.frames] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert scene.dropped == {3: "pose is not finite", 9: "pose is not finite"}
    assert "drop 2 frames (3, 9): pose is not finite" in " ".join(capsys.readouterr().out.split())
    for frame in scene.frames:
        assert frame.colour.read_bytes() == encoded(colour_of(frame.id), JPEG)
        assert np.array_equal(np.asarray(Image.open(frame.depth)), depth_of(frame.id))
        assert torch.equal(scene.read_pose(frame).float(), torch.from_numpy(pose_of(frame.id)))
    assert scene.intrinsics[0].tolist() == [9, 0, 4]
    names = {f"{kind}_{of}.txt" for kind in ("intrinsic", "extrinsic") for of in ("color", "depth")}
    assert {path.name for path in (folder / "intrinsic").iterdir()} == names


@pytest.mark.parametrize("depth", [RAW_USHORT, ZLIB_USHORT])
def test_frames_are_chosen_evenly_among_those_with_pose_and_depth(tmp_path, capsys, depth):
    sens = record(tmp_path / "s.sens", lost=(3,), empty=(0, 5, 6), depth=depth)
    folder = prepare_scannet(sens, tmp_path / "out", 32)
    assert numbers(folder / "depth") == [1, 2, 4, 7, 8, 9]
    assert not open_scene(folder).dropped
    said = " ".join(capsys.readouterr().out.split())
    assert "leaves out 3 frames (0, 5, 6): no depth in any pixel" in said
    assert "leaves out 1 frames (3): pose is not finite" in said
    assert "6 of 10 frames have a pose and depth" in said and "6 usable frames" in said
    for frames, chosen in ((1, [1]), (2, [1, 9])):
        folder = prepare_scannet(sens, tmp_path / f"{frames}", frames)
        assert numbers(folder / "depth") == chosen
    whole = open_scene(prepare_scannet(sens, tmp_path / "whole", None))
    assert list(whole.dropped) == [0, 3, 5, 6]


@given(st.integers(0, 9000), st.integers(1, 200))
def test_evenly_spaced_places(length, count):
    places = evenly_spaced(length, count)
    assert len(places) == min(length, count) == len(set(places))
    assert places == sorted(places)
    if length and count > 1:
        assert (places[0], places[-1]) == (0, length - 1)
        gaps = np.diff(places)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_raw_colour_becomes_png_and_depth_of_another_unit_becomes_mm(tmp_path):
    sens = record(tmp_path / "s.sens", 3, colour=RAW, shift=500.0)
    folder = prepare_scannet(sens, tmp_path)
    assert np.array_equal(np.asarray(Image.open(folder / "color" / "2.png")), colour_of(2))
    assert np.array_equal(np.asarray(Image.open(folder / "depth" / "1.png")), 2 * depth_of(1))


@pytest.mark.parametrize(
    ("changes", "frames", "reason"),
    [
        ({"lost": range(10)}, 32, "has 10 frames, none with a pose and depth"),
        ({"lost": range(10)}, None, "no usable frame"),
        ({"shift": 10.0}, 2, r"frame 0 has depth \(at 10 units per metre\) up to \d+ m"),
        ({"sides": (12, 16, 8, 6), "colour": RAW}, 2, "not the same view"),
    ],
)
def test_what_gives_no_scene_leaves_nothing_behind(tmp_path, changes, frames, reason):
    sens = record(tmp_path / "s.sens", **changes)
    with pytest.raises(BadSample, match=reason) as caught:
        prepare_scannet(sens, tmp_path / "out", frames)
    assert caught.value.path == sens
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_damaged_image_leaves_nothing_behind(sens, tmp_path):
    jpeg = encoded(colour_of(5), JPEG)
    sens.write_bytes(sens.read_bytes().replace(jpeg, bytes(len(jpeg))))
    with pytest.raises(BadSample, match=r"scene0707_00\.sens: frame 5 .*Download the file again"):
        prepare_scannet(sens, tmp_path / "out")
    assert not list((tmp_path / "out" / "scans").iterdir())
    assert len(numbers(prepare_scannet(sens, tmp_path / "out", 2) / "color")) == 2


def test_less_than_one_frame(sens, tmp_path):
    with pytest.raises(ValueError, match="frames=0; give 1 or more"):
        prepare_scannet(sens, tmp_path / "out", 0)
