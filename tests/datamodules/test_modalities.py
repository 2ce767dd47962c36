"""Audio, fast frames and views of small videos whose frames show their own number."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import (
    Audio,
    AudioDataModule,
    Ego,
    EgoDataModule,
    HighFrameRate,
    HighFrameRateDataModule,
    ModalityDataModule,
)
from datamodules.benchmarks import EgoExo4D, InstructJSON
from datamodules.media.audio import read_sound
from datamodules.media.sampling import Rate, Uniform
from datamodules.modalities.audio import timestamps
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import BadSample, Episode, EpisodeMedia
from datamodules.signals import log_mel
from experiments.toyworld.video_files import write_video
from tests.datamodules.benchmarks.official_layouts import conversation, take
from tests.datamodules.media.recordings import write_sound
from vlynx_pl.io.errors import UserError

FPS, SECONDS, RATE = 8, 4, 16_000
SMALL = {"frame_size": (32, 32), "num_workers": 0, "batch_size": 2, "frames": 4}


def film(
    path: Path, level: int = 0, wave: np.ndarray | None = None, count: int = FPS * SECONDS
) -> Path:
    """Frame i has grey level ``level + 7 i``."""
    greys = level + 7 * np.arange(count)
    frames = np.broadcast_to(greys[:, None, None, None], (len(greys), 32, 48, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames.astype(np.uint8), FPS, wave)
    return path


def clicks(*times: float) -> np.ndarray:
    wave = np.random.default_rng(0).normal(0, 1e-3, RATE * SECONDS).astype(np.float32)
    for time in times:
        wave[int(time * RATE) : int(time * RATE) + 400] += 0.5
    return wave


@pytest.fixture
def root(tmp_path) -> Path:
    for i in range(5):
        film(tmp_path / "videos" / f"{i}.mp4", wave=clicks(0.5 + i * 0.5))
    return tmp_path


def numbers(frames) -> list[int]:
    """The number of each frame, from its level."""
    return [round(float(frame.float().mean()) / 7) for frame in frames]


def ready(kind, root, stage="fit", **options):
    data = kind(root, **SMALL | options)
    data.setup(stage)
    return data


def instruct(root: Path, *videos: str) -> InstructJSON:
    records = [conversation(video, "What?", "That.", video=video) for video in videos]
    (root / "train.json").write_text(json.dumps(records))
    return InstructJSON(root / "train.json")


def tuning(root, modalities, **options):
    """Episodes about 0.mp4 for training and 1.mp4 held out."""
    options |= {"benchmark": instruct(root, "0.mp4", "1.mp4"), "objective": "tuning"}
    return ready(ModalityDataModule, root, modalities=modalities, **options)


def test_alignment_on_sound_is_the_log_mel_of_the_files(root):
    data = ready(AudioDataModule, root, window=1.0, frame_size=(128, 100))
    batch = next(iter(data.val_dataloader()))
    sound = read_sound(root / "videos" / "4.mp4")
    end = sound.start + len(sound.waveform) / RATE
    expected = log_mel(sound.waveform, [end / 3 * i for i in range(4)], 1.0)
    assert batch["clips"] == ["4.mp4"]
    assert torch.equal(batch["frames"][0], expected)
    reference = next(iter(data.reference_dataloader()))
    assert numbers(reference["frames"][0]) == [0, 10, 20, 31]


def test_a_sound_is_in_the_middle_of_the_spectrogram_of_its_timestamp(tmp_path):
    times = [0.0, 10 / 8, 20 / 8, 31 / 8]  # of four frames of 32
    for name in ("0.mp4", "1.mp4"):
        film(tmp_path / name, wave=clicks(times[1]))
    [[episode]] = tuning(tmp_path, [Audio(window=1.0)], frame_size=(128, 100)).train_dataloader()
    assert episode["times"]["video"] == episode["times"]["audio"] == tuple(times)
    loudest = episode["streams"]["audio"][1, 0].float().mean(0).argmax()
    assert abs(int(loudest) - 50) <= 3


def test_all_streams_of_a_video_come_from_one_opening(root, opened):
    data = tuning(root, [Audio(), HighFrameRate()])
    opened.clear()
    [[episode]] = data.train_dataloader()
    assert len(opened) == 1
    assert list(episode["streams"]) == ["video", "audio", "highfps"]
    assert {s.shape for s in episode["streams"].values()} == {(4, 3, 32, 32)}
    assert episode["times"]["highfps"][0] == episode["times"]["video"][0] == 0


def test_four_fast_frames_make_a_tiled_frame(root):
    data = ready(HighFrameRateDataModule, root, batch_size=1)
    [batch] = data.val_dataloader()
    quarters = batch["frames"][0].unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)  # (4,3,4,16,16)
    shown = [number for frame in quarters for number in numbers(frame.movedim(1, 0))]
    assert shown == [i * 31 // 15 for i in range(16)]


def test_fast_frames_that_do_not_fill_a_tiled_frame_are_left_out(tmp_path):
    film(tmp_path / "a.mp4")
    fast, spec = HighFrameRate(fps=0.75), FrameSpec(4, (32, 32))
    [source] = fast.find(tmp_path / "a.mp4")["val"]
    assert fast.request(spec).sampling == Rate(3.0, 16)
    assert len(fast.read(source, spec)) == 3  # 12 frames in 4 s
    with pytest.raises(
        BadSample, match="has 2 fast frames, and a tiled frame needs four"
    ) as caught:
        HighFrameRate(fps=0.1).read(source, spec)
    assert caught.value.trouble == "too short"


def test_no_sound_track_silence_and_damage_are_three_things(root):
    videos = root / "videos"
    film(videos / "1.mp4")
    film(videos / "2.mp4", wave=np.zeros(RATE * SECONDS, np.float32))
    data = (videos / "3.mp4").read_bytes()
    (videos / "3.mp4").write_bytes(data[: len(data) // 2])
    found = ready(AudioDataModule, root, on_bad_sample="skip", max_bad_share=1)
    assert [bad.trouble for bad in found.bad_samples] == ["no audio", "silent", "unreadable"]
    assert len(found.train_dataloader().dataset) == 1
    quiet = ready(AudioDataModule, root, on_bad_sample="skip", max_bad_share=1, allow_silence=True)
    assert [bad.trouble for bad in quiet.bad_samples] == ["no audio", "unreadable"]


def test_files_with_sound_only_take_their_videos_from_elsewhere(root, tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for i in range(2):
        write_sound(sounds / f"tone{i}.wav", clicks(1.0)[None], RATE, "pcm_s16le")
    data = ready(AudioDataModule, sounds, reference_root=root)
    assert len(data.train_dataloader().dataset) == 1
    assert len(data.reference_dataloader().dataset) == 4
    with pytest.raises(BadSample, match=r"no reference clip .* Give data\.reference_root"):
        ready(AudioDataModule, sounds)


def test_a_mixed_folder_is_one_message_and_one_command(root):
    """A file with sound only is not a reference video; all that was held out is bad."""
    videos = root / "videos"
    film(videos / "1.mp4")
    film(videos / "9.mp4", wave=np.zeros(RATE * SECONDS, np.float32))
    write_sound(videos / "5.WAV", clicks(1.0)[None], RATE, "pcm_s16le")
    with pytest.raises(BadSample) as caught:
        ready(AudioDataModule, root)
    message = str(caught.value)
    count = len(list(videos.iterdir()))
    share = math.ceil(200 / count) / 100
    options = f"--data.on_bad_sample=skip --data.max_bad_share={share:g}"
    for words in (f"2 bad recordings of {count}.", "1.mp4: has no sound", "9.mp4: has a silent"):
        assert words in message
    assert f"add {options} (with make: ARGS='{options}')" in message
    data = ready(AudioDataModule, root, on_bad_sample="skip", max_bad_share=share, batch_size=1)
    loaders = (data.train_dataloader(), data.val_dataloader(), data.reference_dataloader())
    train, val, reference = ([c.name for c in loader.dataset.items] for loader in loaders)
    assert val == ["5.WAV"] and "5.WAV" not in train and not {"5.WAV", "9.mp4"} & {*reference}
    assert "1.mp4" in reference and "1.mp4" not in train
    reason = "is held out, since everything that was held out is bad"
    assert data.report()["left_out"] == [f"5.WAV: {reason}"]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Uniform(3), (1.0, 2.0, 3.0)),
        (Uniform(1), (1.0,)),
        (Rate(1.0), (1.0, 2.0)),
        (Rate(4.0, 3), (1.0, 2.0, 3.0)),
    ],
)
def test_timestamps_of_files_with_sound_only(sampling, expected):
    assert timestamps(sampling, 1.0, 3.0) == expected


def test_a_folder_of_images_is_a_video_with_three_frames_per_second(root, tmp_path):
    folder = root / "videos" / "show"
    folder.mkdir()
    for i in range(1, 13):
        Image.fromarray(np.full((32, 48, 3), 7 * i, np.uint8)).save(folder / f"{i:05}.png")
    options = {"benchmark": instruct(root), "objective": "tuning", "cache_dir": tmp_path / "cache"}
    data = HighFrameRateDataModule(root, **SMALL, **options)
    [fast], episode = data.modalities, Episode("show@1-3", {"frames": "show"}, (), (1.0, 3.0))

    def read():
        streams = fast.streams(fast.locate(root, episode), FrameSpec(4, (32, 32)))
        return data.serving.reader("train")(EpisodeMedia(episode, streams))

    assert read()["times"]["video"][0] == 1.0
    assert numbers(read()["streams"]["video"]) == [4, 5, 7, 9]
    Image.fromarray(np.full((32, 48, 3), 70, np.uint8)).save(folder / "00005.png")
    assert numbers(read()["streams"]["video"]) == [4, 10, 7, 9], "a changed image is read again"


@pytest.mark.parametrize("setting", [{"window": 1.0}, {"scale": "min-max"}, {"frames": 3}])
def test_every_setting_of_a_modality_makes_new_cache_entries(root, tmp_path, setting):
    options = {"cache_dir": tmp_path / "cache"}
    first = next(iter(ready(AudioDataModule, root, **options).val_dataloader()))["frames"]
    other = next(iter(ready(AudioDataModule, root, **options | setting).val_dataloader()))["frames"]
    assert first.shape != other.shape or not torch.equal(first, other)


def test_the_cache_keeps_the_order_of_modalities(root, tmp_path):
    for both in ([Audio(), HighFrameRate()], [HighFrameRate(), Audio()]):
        data = tuning(root, both, cache_dir=tmp_path / "cache")
        for _ in range(2):
            [[episode]] = data.train_dataloader()
            assert list(episode["streams"]) == ["video", *(modality.name for modality in both)]


def test_an_id_with_a_dot_is_its_own_file_and_no_other(root):
    videos = root / "videos"
    (videos / "0.mp4").rename(videos / "take.mp4")
    (videos / "1.mp4").rename(videos / "take.1.mkv")

    def path(name):
        return Audio().locate(root, Episode("x", {"video": name}, ())).path

    assert path("take.1") == path("take.1.mp4") == videos / "take.1.mkv"
    assert path("videos/take.mp4") == videos / "take.mp4"
    with pytest.raises(BadSample, match=r"take\.2: is missing"):
        path("take.2")


def test_a_file_may_be_at_a_further_path(root):
    data = HighFrameRate()
    at = partial(Episode, "x", questions=(), elsewhere={"video": ["z.mp4", "data0613/star/B.mp4"]})
    first = film(root / "star" / "A.mp4")
    second = film(root / "data0613" / "star" / "B.mp4")
    assert data.locate(root, at({"video": "star/A.mp4"})).path == first
    assert data.locate(root, at({"video": "star/B.mp4"})).path == second
    second.unlink()
    with pytest.raises(BadSample, match=r"/star/B\.mp4: is missing") as caught:
        data.locate(root, at({"video": "star/B.mp4"}))
    assert caught.value.path == root / "star" / "B.mp4"


def test_links_that_an_annotation_names_must_stay_inside(root, tmp_path_factory):
    outside = film(tmp_path_factory.mktemp("elsewhere") / "secret.mp4")
    (root / "videos" / "bare.mkv").symlink_to(outside)
    for name in ("bare", "bare.mp4", "bare.mkv"):
        with pytest.raises(BadSample, match="not a path inside"):
            Audio().locate(root, Episode("x", {"video": name}, ()))
    small = root / "takes" / "t" / "frame_aligned_videos" / "downscaled" / "448"
    small.mkdir(parents=True)
    (small / "cam01.mp4").symlink_to(outside)
    for media in ({"exo1": "takes/t/frame_aligned_videos/cam01.mp4"}, {"take": "takes/t"}):
        with pytest.raises(BadSample, match="not a path inside"):
            Ego().locate(root, Episode("x", media, ())).views()


def test_folders_behind_links_are_searched_once(root, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "here").symlink_to(root / "videos")
    (root / "videos" / "loop").symlink_to(root / "videos")
    assert len(Audio().find(linked)["train"]) == 4


def test_a_frame_rate_needs_batches_of_one_clip(root):
    with pytest.raises(UserError, match=r"data\.fps=2\.0 gives clips of different lengths"):
        AudioDataModule(root, fps=2.0)


def test_the_error_for_an_empty_folder_names_the_suffixes(tmp_path):
    with pytest.raises(BadSample, match=r"holds no file named .*\*\.mp4"):
        ready(HighFrameRateDataModule, tmp_path)


@pytest.fixture
def takes(tmp_path) -> Path:
    """Five takes as they are downloaded; ego is two frames behind exo1; t1 has no exo2."""
    for number in range(5):
        folder = tmp_path / "takes" / f"t{number}" / "frame_aligned_videos"
        film(folder / "aria01_214-1.mp4")
        for other in ("aria01_1201-1", "aria01_211-1", "ego_preview"):
            film(folder / f"{other}.mp4", 200)
        film(folder / "cam01.mp4", 14)
        if number != 1:
            film(folder / "cam02.mp4", 28)
    return tmp_path


def test_ego_is_the_modality_and_exo_the_video(takes):
    data = ready(EgoDataModule, takes)
    batch = next(iter(data.val_dataloader()))
    assert batch["clips"] == ["t4/aria01_214-1"]
    assert numbers(batch["frames"][0]) == [0, 10, 20, 31]
    videos = {b["clips"][0]: numbers(b["frames"][0]) for b in data.reference_dataloader()}
    assert len(videos) == 4 + 3  # a view each; one take has one
    assert videos["t0/cam02"] == [4, 14, 24, 35]


def test_views_can_be_chosen(takes):
    views = {"rgb_views": ["ego"], "modality_views": ["exo2"]}
    data = ready(EgoDataModule, takes, **views, on_bad_sample="skip", max_bad_share=1)
    assert numbers(next(iter(data.val_dataloader()))["frames"][0]) == [4, 14, 24, 35]
    [bad] = data.bad_samples
    assert "t1 has none of the views exo2, only ego, exo1" in str(bad)
    assert bad.trouble == "missing"
    with pytest.raises(ValueError, match="'exo9' is not a view"):
        EgoDataModule(takes, rgb_views=["exo9"])


@pytest.fixture
def benchmark(takes) -> EgoExo4D:
    records = []
    for number in range(5):
        folder = Path("takes", f"t{number}", "frame_aligned_videos")
        paths = {"ego": str(folder / "aria01_214-1.mp4")}
        for camera in sorted((takes / folder).glob("cam*")):
            paths[f"exo{camera.stem[-1]}"] = str(folder / camera.name)
        records.append(take(f"uid-{number}", video_paths=paths, proficiency_score="Novice"))
    (takes / "annotations").mkdir()
    for split, part in (("train", records[:4]), ("val", records[4:])):
        path = takes / "annotations" / f"proficiency_demonstrator_{split}.json"
        path.write_text(json.dumps({"annotations": part}))
    return EgoExo4D(takes / "annotations")


def test_views_of_an_episode_alternate_at_the_same_timestamps(takes, benchmark):
    data = ready(EgoDataModule, takes, benchmark=benchmark, objective="tuning")
    [[episode]] = data.val_dataloader()
    assert numbers(episode["streams"]["video"]) == [2, 4, 12, 14, 22, 24, 33, 35]
    assert numbers(episode["streams"]["ego"]) == [0, 10, 20, 31]
    assert episode["times"]["video"] == tuple(t for t in episode["times"]["ego"] for _ in range(2))
    lengths = [len(e["streams"]["video"]) for batch in data.train_dataloader() for e in batch]
    assert sorted(lengths) == [4, 8, 8, 8]  # one take lacks exo2
    assert episode["questions"][0].answers == ("Novice",)


@pytest.mark.parametrize(
    ("view", "count", "left"),
    [("cam02", 28, 3), ("aria01_214-1", 25, 3), ("cam01", 28, 4)],
)
def test_timestamps_after_the_end_of_a_slightly_shorter_view_are_left_out(
    takes, benchmark, view, count, left
):
    path = takes / "takes" / "t4" / "frame_aligned_videos" / f"{view}.mp4"
    film(path, {"cam01": 14, "cam02": 28}.get(view, 0), count=count)
    data = ready(EgoDataModule, takes, benchmark=benchmark, objective="tuning")
    [[episode]] = data.val_dataloader()
    frames = (0, 9, 18, 27) if view == "cam01" else (0, 10, 20, 31)[:left]
    times = tuple(frame / FPS for frame in frames)
    assert episode["times"]["ego"] == times
    assert episode["times"]["video"] == tuple(t for t in times for _ in range(2))
    assert len(episode["streams"]["ego"]) == left
    assert len(episode["streams"]["video"]) == 2 * left
    clips = ready(EgoDataModule, takes, benchmark=benchmark)
    assert all(len(b["frames"][0]) == 4 for b in clips.val_dataloader())


def test_a_view_that_ends_long_before_the_others_is_bad(takes, benchmark):
    path = film(takes / "takes/t4/frame_aligned_videos/cam02.mp4", 28, count=22)
    data = ready(EgoDataModule, takes, benchmark=benchmark, objective="tuning")
    with pytest.raises(BadSample, match=r"cam02\.mp4: has no frame at 3\.875 s, outside") as caught:
        next(iter(data.val_dataloader()))
    assert caught.value.path == path and caught.value.trouble == "too short"


def test_smaller_copies_of_takes_are_found(takes, benchmark):
    for folder in takes.glob("takes/*/frame_aligned_videos"):
        (folder / "downscaled" / "448").mkdir(parents=True)
        for path in folder.glob("*.mp4"):
            path.rename(folder / "downscaled" / "448" / path.name)
    for options in ({}, {"benchmark": benchmark}):
        data = ready(EgoDataModule, takes, **options)
        assert len(data.train_dataloader().dataset) == 4
    take = Ego().locate(takes, Episode("t1", {"take": "takes/t1"}, ()))
    assert sorted(take.views()) == ["ego", "exo1"]
    next(takes.rglob("aria*_214-1.mp4")).unlink()
    with pytest.raises(BadSample, match=r"aria01_214-1\.mp4: is missing") as caught:
        ready(EgoDataModule, takes, benchmark=benchmark)
    assert caught.value.trouble == "missing"
