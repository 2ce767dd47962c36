"""The toy world of takes: the player's view tells the skill in every frame, the others never."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from datamodules.benchmarks.egoexo import EgoExo4D
from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from experiments.toyworld.ego import Takes
from experiments.toyworld.ego_annotations import video_paths
from experiments.toyworld.scene import HALF_WIDTH
from experiments.toyworld.takes import (
    BALLS,
    CAMERAS,
    FPS,
    FRAMES,
    SKILLS,
    Take,
    render_ego,
    render_exo,
    sample_take,
)

PARTED: dict[Split, slice] = {"train": slice(6), "val": slice(6, 8), "test": slice(8, 10)}

seeds, numbers = st.integers(0, 2**31), st.integers(0, 9999)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Take]]:
    """Ten takes on disk with their annotations."""
    out, maker = tmp_path_factory.mktemp("ego"), Takes()
    facts = [maker.make(out, 5, i, 64) for i in range(10)]
    for split, part in PARTED.items():
        maker.annotate(out, split, facts[part])
    return out, facts


def frames_of(path: Path) -> NDArray[np.uint8]:
    """All frames (T, H, W, 3) of a video."""
    pictures = read_video(path, [Request(Uniform(FRAMES))]).streams[0].pixels
    found: NDArray[np.uint8] = pictures.permute(0, 2, 3, 1).numpy()
    return found


def ball(frames: NDArray[np.uint8], scenario: str) -> NDArray[np.bool_]:
    """Pixels (T, H, W) of the ball, by its colour."""
    red, green, blue = (frames[..., channel].astype(float) for channel in range(3))
    if BALLS[scenario] == "black":
        return np.asarray((red < 50) & (green < 50) & (blue < 50))
    return np.asarray((red > 100) & (blue < 0.4 * red) & (green > 0.4 * red) & (green < 0.7 * red))


def off_centre(frames: NDArray[np.uint8], scenario: str) -> NDArray[np.float64]:
    """Distance of the ball from the centre of each frame, in focal lengths."""
    half = (frames.shape[1] - 1) / 2
    seen = [np.argwhere(mask).mean(0) - half for mask in ball(frames, scenario)]
    return np.asarray(np.linalg.norm(seen, axis=-1) * HALF_WIDTH / (half + 0.5))


# What the views tell ----------------------------------------------------------------------------


def test_the_skill_is_seen_in_every_frame_of_the_players_view(
    world: tuple[Path, list[Take]],
) -> None:
    out, facts = world
    for take in facts:
        distances = off_centre(frames_of(out / video_paths(take)["ego"]), take.scenario)
        assert len(distances) == FRAMES
        low, high = SKILLS[take.skill]
        assert (distances > low - 0.03).all() and (distances < high + 0.03).all(), take.name


def test_skills_keep_apart() -> None:
    bands = sorted(SKILLS.values())
    gaps = [after[0] - before[1] for before, after in pairwise(bands)]
    assert min(gaps) > 0.1  # 5 of 64 pixels
    assert bands[-1][1] < HALF_WIDTH
    assert list(SKILLS.values()) == sorted(bands, reverse=True)


@pytest.mark.parametrize("index", range(3))
def test_another_skill_changes_nothing_but_the_players_view(index: int) -> None:
    takes = [sample_take(5, index, skill) for skill in SKILLS]
    seen = [render_exo(take) for take in takes]
    for exo in seen[1:]:
        assert exo.keys() == seen[0].keys()
        assert all((exo[camera] == seen[0][camera]).all() for camera in exo)
    assert len({render_ego(take).tobytes() for take in takes}) == len(SKILLS)


@given(seeds, numbers)
def test_all_but_the_gaze_is_the_same_for_every_skill(seed: int, index: int) -> None:
    one, *others = (sample_take(seed, index, skill) for skill in SKILLS)
    for other in others:
        assert (other.name, other.scenario, other.cameras) == (one.name, one.scenario, one.cameras)
        assert other.scene.objects == one.scene.objects and (other.path == one.path).all()


def test_nothing_else_is_round_or_has_a_balls_colour() -> None:
    for take in (sample_take(1, i) for i in range(100)):
        first, *others = take.scene.objects
        assert (first.shape, first.colour) == ("sphere", BALLS[take.scenario])
        assert others
        for thing in others:
            assert thing.shape != "sphere" and thing.colour not in {*BALLS.values(), "cyan"}
            assert thing.distance - thing.radius > first.distance + first.radius


def test_the_ball_moves_before_the_cameras_which_stand_still() -> None:
    found = 0
    for take in (sample_take(3, i) for i in range(4)):
        for frames in render_exo(take).values():
            changed = (frames != frames[0]).any((0, 3))
            assert 0 < changed.mean() < 0.15  # of the pixels; all would, had the camera moved
            found += bool(ball(frames, take.scenario).any((1, 2)).all())
    assert found > 4


# Takes ------------------------------------------------------------------------------------------


@given(seeds, numbers)
def test_four_takes_have_four_skills(seed: int, block: int) -> None:
    four = [sample_take(seed, 4 * block + i).skill for i in range(4)]
    assert sorted(four) == sorted(SKILLS)


def test_some_views_are_missing_and_scenarios_take_turns() -> None:
    takes = [sample_take(7, i) for i in range(400)]
    views = Counter(len(take.cameras) for take in takes)
    assert set(views) == {1, 2, 3, 4} and 0.4 < views[4] / 400 < 0.6
    assert {camera for take in takes for camera in take.cameras} == set(CAMERAS)
    for scenario in BALLS:
        skills = Counter(take.skill for take in takes if take.scenario == scenario)
        assert max(skills.values()) / sum(skills.values()) < 0.33


# Files ------------------------------------------------------------------------------------------


def test_views_are_aligned_and_only_the_players_is_square(world: tuple[Path, list[Take]]) -> None:
    out, facts = world
    on_disk = {path for path in (out / "takes").rglob("*") if path.is_file()}
    assert on_disk == {out / path for take in facts for path in video_paths(take).values()}
    for take in facts:
        for view, path in video_paths(take).items():
            (stream,) = read_video(out / path, [Request(Uniform(FRAMES))]).streams
            assert stream.times == tuple(i / FPS for i in range(FRAMES))
            assert stream.pixels.shape[2:] == (64, 64 if view == "ego" else 80)


def test_same_arguments_make_the_same_bytes(world: tuple[Path, list[Take]], tmp_path: Path) -> None:
    out, facts = world
    again = Takes().make(tmp_path, 5, 2, 64)
    assert video_paths(again) == video_paths(facts[2])
    for path in video_paths(again).values():
        assert (tmp_path / path).read_bytes() == (out / path).read_bytes()
    other = Takes().make(tmp_path / "other", 6, 2, 64)
    ego = tmp_path / "other" / video_paths(other)["ego"]
    assert ego.read_bytes() != (out / video_paths(facts[2])["ego"]).read_bytes()


def test_fields_are_the_official_ones(world: tuple[Path, list[Take]]) -> None:
    out, facts = world
    for split in ("train", "val"):
        path = out / "annotations" / f"proficiency_demonstrator_{split}.json"
        content = json.loads(path.read_text())
        assert list(content) == ["annotations"]
        for record, take in zip(content["annotations"], facts[PARTED[split]], strict=True):
            assert list(record) == [
                "task_id", "task_name", "scenario_name", "university_id", "origin_participant_id",
                "take_uid", "video_paths", "proficiency_score",
            ]  # fmt: skip
            assert record["proficiency_score"] == take.skill
            folder = f"takes/{take.name}/frame_aligned_videos"
            assert record["video_paths"]["ego"] == f"{folder}/aria01_214-1.mp4"
            for camera in take.cameras:
                assert record["video_paths"][f"exo{camera}"] == f"{folder}/cam0{camera}.mp4"
            assert len(record["video_paths"]) == 1 + len(take.cameras)
    hidden = out / "annotations" / "demonstrator_proficiency_test_v2.json"
    assert json.loads(hidden.read_text()) == [take.name for take in facts[PARTED["test"]]]


def test_the_benchmarks_reader_finds_every_file(world: tuple[Path, list[Take]]) -> None:
    out, facts = world
    benchmark = EgoExo4D(out / "annotations")
    assert benchmark.splits() == ["train", "val", "test"]
    for split, part in PARTED.items():
        episodes = benchmark.episodes(split)
        assert len(episodes) == len(facts[part])
        for episode in episodes:
            assert all((out / path).exists() for path in episode.media.values())


def test_the_picture_shows_every_skill(world: tuple[Path, list[Take]]) -> None:
    out, facts = world
    Takes().draw(facts, out, out / "contact_sheet.png", 64)
    assert Image.open(out / "contact_sheet.png").width > 1000
