"""Modalities of the gallery show what their sensor recorded, and refuse everything else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datamodules import ModalityDataModule
from datamodules.gallery import Events, Imu, Thermal
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import BadSample
from datamodules.signals.turbo import turbo_table
from experiments.toyworld import generate_toyworld
from experiments.toyworld.blinks import FPS, FRAMES, sample_clip
from experiments.toyworld.sensed_rooms import SENSED
from tests.conftest import REPOSITORY

FOUR = FrameSpec(4, (64, 64))
SCENES, SEED = 5, 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of the gallery's toy worlds, by name."""
    folder = tmp_path_factory.mktemp("gallery")
    for name in SENSED:
        assert generate_toyworld(folder / name, name, SCENES, SEED, workers=1)
    return {name: folder / name for name in SENSED}


def recordings(folder):
    return sorted(path for path in folder.glob("scene*") if path.is_file())


# Frames -----------------------------------------------------------------------------------------


def stack(path, *pages):
    first, *others = (Image.fromarray(np.asarray(page)) for page in pages)
    first.save(path, "TIFF", save_all=True, append_images=others)
    return path


def test_temperatures_are_turbo_colours(tmp_path):
    celsius = np.array([[-10, 0, 30, 60, 80]])
    page = ((celsius + 273.15) * 100).round().astype(np.uint16)
    frames = Thermal().render(stack(tmp_path / "a.tiff", page, page + 600), FOUR)
    colours = turbo_table()
    assert frames.shape == (4, 3, 1, 5)
    assert frames[0].mT[:, :, 0].tolist() == colours[[0, 0, 127, 255, 255]].T.tolist()
    assert (frames[0] == frames[2]).all() and not (frames[2] == frames[3]).all()


def test_rising_brightness_is_red_and_falling_is_blue(tmp_path):
    lines = ["0.0 1 0 1", *["0.1 2 1 1"] * 4, "1.9 0 1 0", "4.0 2 0 -1"]
    (tmp_path / "a.txt").write_text("\n".join(["# t x y polarity", *lines]))
    frames = Events(height=2, width=3).render(tmp_path / "a.txt", FOUR)
    wanted = torch.zeros(4, 3, 2, 3, dtype=torch.uint8)
    wanted[0, 0, 0, 1], wanted[0, 0, 1, 2], wanted[1, 2, 1, 0], wanted[3, 2, 0, 2] = 63, 255, 63, 63
    assert frames.tolist() == wanted.tolist()


@pytest.mark.parametrize("column", range(6))
def test_axes_are_colours_and_frequencies_are_rows(tmp_path, column):
    table = np.zeros((400, 7))
    table[:, 0] = np.arange(400) * 5_000_000
    table[:, 1 + column] = np.sin(2 * np.pi * 50 * table[:, 0] / 1e9)  # half of Nyquist
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header="timestamp [ns],w_x")
    frames = Imu().render(tmp_path / "a.csv", FOUR)
    assert frames.shape == (4, 3, 66, 64)
    brightness = frames[1].float().mean(2)  # (3, 66)
    assert divmod(int(brightness.argmax()), 66) == (column % 3, 16 if column >= 3 else 49)


# Files ------------------------------------------------------------------------------------------

WARM = np.full((4, 4), 29_315, np.uint16)


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([WARM.astype(np.uint8)], "in 16-bit centikelvin. Export radiometric"),
        ([WARM // 10], "above -100 °C in 16-bit"),
        ([WARM, WARM[1:]], "its pages differ in size"),
    ],
)
def test_images_that_are_not_temperatures_are_refused(tmp_path, pages, message):
    with pytest.raises(BadSample, match=message):
        Thermal().render(stack(tmp_path / "a.tiff", *pages), FOUR)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has 0 rows"),
        (
            "0 0 0 1\n",
            r"has 1 rows\. Export it again: in each line t x y polarity, separated by sp",
        ),
        ("t x y p\n0 0 0 1\n", "not a table of numbers"),
        ("0 0 0\n1 1 1\n", "has 3 columns"),
        ("0 0 0 1\nnan 1 1 1\n", "not finite"),
        ("0 0 0 1\n1 240 1 1\n", "has events outside 180 × 240 pixels. Give the sensor's height"),
        ("0 0 0 1\n1 -1 1 1\n", "has events outside"),
    ],
)
def test_text_that_is_not_events_is_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(BadSample, match=message):
        Events().render(tmp_path / "a.txt", FOUR)


@pytest.mark.parametrize("damage", ["short", "gap", "backwards"])
def test_samples_at_an_uneven_rate_are_refused(tmp_path, damage):
    time = np.arange(300.0)
    if damage == "short":
        time = time[:255]
    elif damage == "gap":
        time[200:] += 2
    else:
        time = time[::-1]
    np.savetxt(tmp_path / "a.csv", time[:, None].repeat(7, 1), delimiter=",")
    with pytest.raises(BadSample, match="is not 256 or more samples at a constant rate"):
        Imu().render(tmp_path / "a.csv", FOUR)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", SENSED)
def test_a_damaged_recording_is_read_or_refused(world, name, tmp_path_factory):
    original = recordings(world[name])[0].read_bytes()[:70_000]
    path = tmp_path_factory.mktemp("damaged") / f"a{recordings(world[name])[0].suffix}"

    @given(st.integers(0, len(original)), st.integers(0, 2000), st.binary(max_size=8))
    def read_or_refuse(end, place, bytes_there):
        path.write_bytes(original[:place] + bytes_there + original[place + len(bytes_there) : end])
        try:
            assert SENSED[name].modality.render(path, FOUR).dtype == torch.uint8
        except BadSample as bad:
            assert bad.path == path and bad.remedy

    read_or_refuse()


def test_a_folder_without_recordings_is_refused(tmp_path, world):
    with pytest.raises(BadSample, match=r"none: is missing. Give the folder that holds \*\.csv"):
        ModalityDataModule(tmp_path / "none", modalities=["imu"]).setup("fit")
    data = ModalityDataModule(world["imu"] / "videos", modalities=["imu"], num_workers=0)
    with pytest.raises(
        BadSample, match=r"mp4: is in a folder without \*\.csv, the recordings of imu"
    ):
        data.setup("fit")


def test_recordings_without_videos_need_a_reference_root(world, tmp_path):
    for path in recordings(world["imu"]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    given = {"modalities": ["imu"], "num_workers": 0}
    with pytest.raises(BadSample, match=r"no reference clip.*Give data\.reference_root"):
        ModalityDataModule(tmp_path, **given).setup("fit")
    data = ModalityDataModule(tmp_path, reference_root=world["imu"], **given)
    data.setup("fit")
    assert len(data.reference_names()) == 4


# The toy worlds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SENSED)
def test_a_toy_world_is_read_and_its_videos_are_the_reference(world, name):
    data = ModalityDataModule(
        world[name],
        modalities=[SENSED[name].modality],
        frames=4,
        frame_size=(64, 64),
        num_workers=0,
    )
    data.setup("fit")
    [batch] = data.train_dataloader()
    assert batch["frames"].shape == (4, 4, 3, 64, 64)
    names = [f"scene{i:04}_00{recordings(world[name])[0].suffix}" for i in range(4)]
    assert sorted(batch["clips"]) == sorted(data.reference_names()) == names
    [reference, *_] = data.reference_dataloader()
    assert reference["frames"].shape == (1, 4, 3, 64, 64)
    assert Image.open(world[name] / "contact_sheet.png").width > 800


@pytest.mark.parametrize("name", SENSED)
def test_a_recording_depends_on_its_seed_and_number_alone(world, name, tmp_path):
    for seed in (SEED, SEED + 1):
        (tmp_path / str(seed)).mkdir()
        SENSED[name].make(tmp_path / str(seed), seed, 2)
    same, other = (recordings(tmp_path / str(seed))[0] for seed in (SEED, SEED + 1))
    assert same.read_bytes() == (world[name] / same.name).read_bytes() != other.read_bytes()


def test_an_event_camera_sees_blinks_between_the_frames(world):
    """Every blink is a burst of events at its first and its last frame."""
    for index in range(SCENES):
        clip = sample_clip(SEED, index)
        time = np.loadtxt(world["events"] / f"{clip.name}.txt")[:, 0]
        per_frame = np.histogram(time * FPS, FRAMES - 1, (0, FRAMES - 1))[0]
        for blink in clip.blinks:
            edges = per_frame[[blink.frames.start - 1, blink.frames.stop - 1]]
            assert (edges > 2 * np.median(per_frame)).all()


@pytest.mark.parametrize("name", SENSED)
def test_each_is_one_short_file(name):
    code = (REPOSITORY / "datamodules" / "gallery" / f"{name}.py").read_text().splitlines()
    assert len([line for line in code if line.strip()]) <= 40
