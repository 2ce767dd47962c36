"""Depth of small ScanNet scenes, as clips and as episodes."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Audio, Depth, DepthDataModule, ModalityDataModule
from datamodules.benchmarks import ScanQA
from datamodules.media.scannet import open_scene
from datamodules.samples import BadSample
from datamodules.signals import disparity, normals
from experiments.toyworld.video_files import write_video
from tests.datamodules.conftest import write_scanqa

SMALL = {"frame_size": (12, 16), "num_workers": 0, "batch_size": 2, "max_bad_share": 1.0}


def module(root, kind=DepthDataModule, **options):
    data = kind(root, **SMALL | options)
    data.setup("fit")
    return data


def first_frames(data):
    return next(iter(data.val_dataloader()))["frames"]


def names(loader):
    return [name for batch in loader for name in batch["clips"]]


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def test_every_depth_frame_is_a_sample_and_the_last_fifth_of_scenes_is_held_out(root):
    data = module(root)
    train = [f"scene000{s}_00/{100 * s + 20 * i}" for s in range(4) for i in range(3)]
    assert sorted(names(data.train_dataloader())) == train
    assert names(data.val_dataloader()) == [f"scene0004_00/{i}" for i in (400, 420, 440)]
    assert "12 train clips, 3 val clips, 4 reference clips" in repr(data)


def test_frames_are_the_signals_of_the_files(root):
    scene = open_scene(root / "scans" / "scene0004_00")
    depth = scene.read_depth(scene.frames[0])
    signals = {
        "turbo": [disparity(depth, 300, 5000)],
        "gray": [disparity(depth, 300, 5000, "gray")],
        "normals": [normals(depth, scene.intrinsics, 300, 5000)],
    }
    signals["turbo+normals"] = signals["turbo"] + signals["normals"]
    for encoding, expected in signals.items():
        frames = first_frames(module(root, encoding=encoding, near_mm=300, far_mm=5000))
        assert frames.shape == (2, len(expected), 3, 12, 16) and frames.dtype == torch.uint8
        assert torch.equal(frames[0], torch.stack(expected))


def test_world_normals_use_the_pose(root):
    turn = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    for path in (root / "scans" / "scene0004_00" / "pose").iterdir():
        np.savetxt(path, turn)
    camera = first_frames(module(root, encoding="normals"))
    world = first_frames(module(root, encoding="normals", normal_frame="world"))
    # x and y turn into y and -x; 255 - p is the colour of -n, up to rounding.
    assert torch.equal(world[:, :, 1], camera[:, :, 0])
    assert (world[:, :, 0].int() - (255 - camera[:, :, 1].int())).abs().max() <= 1


def test_windows_overlap_rather_than_pad(tmp_path, write_scene):
    for name in ("a", "b"):
        write_scene(tmp_path / name, range(5))
    data = module(tmp_path, frames_per_sample=2)
    assert names(data.val_dataloader()) == ["b/0,1", "b/2,3", "b/3,4"]


def test_reference_is_colour_of_training_scenes_with_a_shorter_last_chunk(root):
    data = module(root, reference_frames=2)
    batches = {batch["clips"][0]: batch["frames"] for batch in data.reference_dataloader()}
    expected = [f"scene000{s}_00/{100 * s}," for s in range(4)]
    assert sum(name.startswith(tuple(expected)) for name in batches) == 4
    assert not any(name.startswith("scene0004") for name in batches)
    assert batches["scene0001_00/100,120"].shape == (1, 2, 3, 12, 16)
    last = batches["scene0001_00/140"]
    assert last.shape == (1, 1, 3, 12, 16)
    assert last.float().mean() == pytest.approx(140, abs=2)  # the scene writer's level


def test_lists_decide_and_unlisted_scenes_are_not_read(root):
    (root / "scannetv2_train.txt").write_text("scene0004_00\nscene0002_00\n")
    (root / "scannetv2_val.txt").write_text("scene0000_00\n")
    data = module(root)
    train = {name.split("/")[0] for name in names(data.train_dataloader())}
    assert train == {"scene0002_00", "scene0004_00"}
    assert {name.split("/")[0] for name in names(data.val_dataloader())} == {"scene0000_00"}


@pytest.mark.parametrize("folder", ["chess", "scans/chess"])
def test_a_single_scene_holds_out_its_last_frames(tmp_path, write_scene, folder):
    scene = write_scene(tmp_path / folder, range(10))
    data = module(scene if folder == "chess" else tmp_path)
    assert names(data.val_dataloader()) == ["chess/8", "chess/9"]
    assert names(data.reference_dataloader()) == ["chess/0,1,2,3,4,5,6,7"]


def test_the_order_depends_on_the_seed_alone(root):
    first, again, other = module(root), module(root, num_workers=1), module(root, seed=1)
    for loader in ("train_dataloader", "reference_dataloader"):
        order = names(getattr(first, loader)())
        assert order == names(getattr(again, loader)())
        assert order != names(getattr(other, loader)())


def test_preprocessing_is_everything_that_frames_depend_on(root):
    assert DepthDataModule(root, encoding="gray", far_mm=4000, **SMALL).preprocessing == {
        "frames": 20,
        "frame_size": [12, 16],
        "modalities": [
            [
                "datamodules.modalities.depth.Depth",
                {
                    "frames": None,
                    "encoding": "gray",
                    "near_mm": 200,
                    "far_mm": 4000,
                    "normal_frame": "camera",
                    "depth_scale": 1000,
                    "frames_per_sample": 1,
                    "reference_frames": 20,
                },
            ]
        ],
    }


def test_depth_in_another_unit_raises_a_doubt_or_is_rendered_as_mm(root):
    expected = [batch["frames"] for batch in module(root).val_dataloader()]
    assert module(root).joined.doubts() == []
    for path in root.glob("scans/*/depth/*.png"):
        depth = np.asarray(Image.open(path)).astype(np.uint16)
        Image.fromarray(depth * 10).save(path)
    with pytest.warns(UserWarning, match=r"not that of depth_scale=1000, but 10000 \(0\.1 mm\)"):
        doubted = module(root)
    [doubt] = doubted.joined.doubts()
    assert doubt.startswith(str(root / "scans" / "scene0000_00"))
    assert doubt.endswith("(5 of 5 scenes looked at are doubtful)")
    data = module(root, depth_scale=10_000)
    assert data.joined.doubts() == []
    for batch, other in zip(data.val_dataloader(), expected, strict=True):
        assert torch.equal(batch["frames"], other)
    assert data.rendering_settings == doubted.rendering_settings
    assert data.preprocessing != doubted.preprocessing


def test_all_stages_drop_and_report_frames_without_pose_or_depth(root):
    np.savetxt(root / "scans" / "scene0001_00" / "pose" / "100.txt", np.full((4, 4), -np.inf))
    empty = root / "scans" / "scene0001_00" / "depth" / "120.png"
    Image.fromarray(np.zeros((12, 16), np.uint16)).save(empty)
    data = module(root, reference_frames=3)
    assert not {"scene0001_00/100", "scene0001_00/120"} & {*names(data.train_dataloader())}
    assert "scene0001_00/140" in names(data.reference_dataloader())
    without_pose, without_depth = data.report()["dropped_frames"]
    assert without_pose.startswith("scene0001_00/100: pose is not finite")
    assert without_depth == "scene0001_00/120: no depth in any pixel"
    assert "dropped frames: 1 pose is not finite" in repr(data)
    asked = module(root, benchmark=scanqa(root, 1), objective="tuning")
    [[episode]] = asked.val_dataloader()
    assert episode["times"]["video"] == episode["times"]["3d"] == (140 / 30,)
    looked_at = DepthDataModule(root, **SMALL).inspect(("train", "val"), read=True)
    assert not [bad for finding in looked_at for bad in finding.bad]


def test_skip_leaves_out_and_lists_all_that_is_bad(root):
    scans = root / "scans"
    shutil.rmtree(scans / "scene0002_00" / "depth")
    files = [
        cut(scans / "scene0001_00" / "depth" / "120.png"),
        cut(scans / "scene0003_00" / "color" / "340.jpg"),
        cut(scans / "scene0004_00" / "depth" / "400.png"),
    ]
    data = module(root, on_bad_sample="skip")
    assert len(names(data.train_dataloader())) == 3 * 3 - 1
    assert "scene0001_00/120" not in names(data.train_dataloader())
    assert names(data.val_dataloader()) == ["scene0004_00/420", "scene0004_00/440"]
    assert len(names(data.reference_dataloader())) == 2
    assert {bad.path for bad in data.bad_samples} == {scans / "scene0002_00", *files}
    assert all(bad.reason and bad.remedy for bad in data.bad_samples)
    assert "4 skipped" in repr(data)
    for path in (scans / "scene0004_00" / "depth").iterdir():
        Image.fromarray(np.zeros((12, 16), np.uint16)).save(path)
    with pytest.raises(BadSample, match=r"leaves no val clip of 5 recordings; .*Repair"):
        module(root, on_bad_sample="skip")


def test_too_few_frames_for_a_sample(root):
    with pytest.raises(BadSample, match=r"3 usable frames .*frames_per_sample=4\. Lower"):
        module(root, frames_per_sample=4)


def test_intrinsics_of_another_image_name_the_scene(root):
    camera = root / "scans" / "scene0004_00" / "intrinsic" / "intrinsic_depth.txt"
    np.savetxt(camera, [[1170, 0, 648], [0, 1170, 484], [0, 0, 1]])
    with pytest.raises(BadSample, match=r"scene0004_00: .*cx=648.*encoding=turbo"):
        names(module(root, encoding="normals").val_dataloader())
    assert len(names(module(root).val_dataloader())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_scale": 0}, "depth_scale=0 is not a scale"),
        ({"near_mm": 500, "far_mm": 400}, "near_mm=500 and far_mm=400"),
        ({"frames_per_sample": 0}, "frames_per_sample=0 .*1 or more"),
        ({"reference_frames": 0}, "reference_frames=0 .*1 or more"),
    ],
)
def test_impossible_settings_are_refused_at_once(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        DepthDataModule(tmp_path, **options)


def scanqa(root, *scenes):
    questions = [(scene, f"train-{i}", f"{i}?") for i, scene in enumerate(scenes)]
    for split in ("train", "val"):
        write_scanqa(root, split, questions)
    return ScanQA(root)


def test_an_episode_is_a_scene_with_the_frames_that_lie_farthest_apart(root):
    for i, path in enumerate(sorted((root / "scans" / "scene0001_00" / "pose").iterdir())):
        pose = np.eye(4)
        pose[0, 3] = [0.0, 0.1, 5.0][i]
        np.savetxt(path, pose)
    benchmark = scanqa(root, 1, 2, 1)
    options = {"benchmark": benchmark, "objective": "tuning"}
    [[first, _]] = module(root, frames=2, encoding="turbo+normals", **options).val_dataloader()
    assert [q.prompt for q in first["questions"]] == ["0?", "2?"]
    levels = first["streams"]["video"].float().mean((1, 2, 3)).tolist()
    assert levels == pytest.approx([100, 140], abs=2)
    assert first["times"]["video"] == first["times"]["3d"] == (100 / 30, 140 / 30)
    assert first["streams"]["3d"].shape == (4, 3, 12, 16)
    [[turbo, _]] = module(root, frames=2, **options).val_dataloader()
    assert torch.equal(turbo["streams"]["3d"], first["streams"]["3d"][::2])
    [[every, _]] = module(root, frames=48, **options).val_dataloader()
    assert len(every["streams"]["video"]) == 3, "fewer frames than asked for are not padded"


def test_a_scene_that_is_not_there_is_missing(root):
    benchmark = scanqa(root, 1, 7)
    data = module(root, benchmark=benchmark, objective="tuning", on_bad_sample="skip")
    assert [bad.trouble for bad in data.bad_samples] == ["missing"]


def test_sound_and_depth_of_one_scene_make_one_episode(root):
    for number in range(5):
        frames = np.full((8, 32, 32, 3), 10 * number, np.uint8)
        wave = np.sin(np.arange(32_000) / 9).astype(np.float32)
        write_video(root / "videos" / f"scene000{number}_00.mp4", frames, 4, wave)
    options = {"benchmark": scanqa(root, 3, 2), "objective": "tuning"}
    data = module(root, ModalityDataModule, modalities=[Depth(), Audio(frames=2)], **options)
    [[episode, _]] = data.val_dataloader()
    lengths = {name: len(stream) for name, stream in episode["streams"].items()}
    assert lengths == {"video": 3, "3d": 3, "audio": 2}
    assert episode["streams"]["video"][0].float().mean() == pytest.approx(300 % 256, abs=2)
    assert data.report()["dropped_frames"] == []
