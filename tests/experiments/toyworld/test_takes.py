"""The toy world of takes: the egocentric view shows the skill in every frame, the others never."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from experiments.toyworld import ego
from experiments.toyworld.scene import HALF_WIDTH
from experiments.toyworld.takes import (
    BALLS,
    CAMERAS,
    FRAMES,
    SKILLS,
    render_ego,
    render_exo,
    sample_take,
)

seeds, numbers = st.integers(0, 2**31), st.integers(0, 9999)


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


def test_the_skill_is_seen_in_every_frame_of_the_egocentric_view(tmp_path):
    for take in (ego.make(tmp_path, 5, index) for index in range(8)):
        path = tmp_path / ego.video_paths(take)["ego"]
        frames = read_video(path, [Request(Uniform(FRAMES))]).streams[0].pixels
        distances = off_centre(frames.permute(0, 2, 3, 1).numpy(), take.scenario)
        assert len(distances) == FRAMES
        low, high = SKILLS[take.skill]
        assert (distances > low - 0.03).all() and (distances < high + 0.03).all(), take.name


def test_skills_keep_apart():
    bands = sorted(SKILLS.values())
    gaps = [after[0] - before[1] for before, after in pairwise(bands)]
    assert min(gaps) > 0.1  # 5 of 64 pixels
    assert bands[-1][1] < HALF_WIDTH
    assert list(SKILLS.values()) == sorted(bands, reverse=True)


@pytest.mark.parametrize("index", range(3))
def test_another_skill_changes_nothing_but_the_egocentric_view(index):
    takes = [sample_take(5, index, skill) for skill in SKILLS]
    seen = [render_exo(take) for take in takes]
    for exo in seen[1:]:
        assert exo.keys() == seen[0].keys()
        assert all((exo[camera] == seen[0][camera]).all() for camera in exo)
    assert len({render_ego(take).tobytes() for take in takes}) == len(SKILLS)


@given(seeds, numbers)
def test_all_but_the_gaze_is_the_same_for_every_skill(seed: int, index: int):
    one, *others = (sample_take(seed, index, skill) for skill in SKILLS)
    for other in others:
        assert (other.name, other.scenario, other.cameras) == (one.name, one.scenario, one.cameras)
        assert other.scene.objects == one.scene.objects and (other.path == one.path).all()


def test_no_other_object_is_a_sphere_or_has_the_colour_of_a_ball():
    for take in (sample_take(1, i) for i in range(100)):
        first, *others = take.scene.objects
        assert (first.shape, first.colour) == ("sphere", BALLS[take.scenario])
        assert others
        for thing in others:
            assert thing.shape != "sphere" and thing.colour not in {*BALLS.values(), "cyan"}
            assert thing.distance - thing.radius > first.distance + first.radius


def test_the_ball_moves_and_the_cameras_do_not():
    found = 0
    for take in (sample_take(3, i) for i in range(4)):
        for frames in render_exo(take).values():
            changed = (frames != frames[0]).any((0, 3))
            assert 0 < changed.mean() < 0.15  # of the pixels; all would, had the camera moved
            found += bool(ball(frames, take.scenario).any((1, 2)).all())
    assert found > 4


# Takes ------------------------------------------------------------------------------------------


@given(seeds, numbers)
def test_four_takes_have_four_skills(seed: int, block: int):
    four = [sample_take(seed, 4 * block + i).skill for i in range(4)]
    assert sorted(four) == sorted(SKILLS)


def test_some_views_are_missing_and_scenarios_take_turns():
    takes = [sample_take(7, i) for i in range(400)]
    views = Counter(len(take.cameras) for take in takes)
    assert set(views) == {1, 2, 3, 4} and 0.4 < views[4] / 400 < 0.6
    assert {camera for take in takes for camera in take.cameras} == set(CAMERAS)
    for scenario in BALLS:
        skills = Counter(take.skill for take in takes if take.scenario == scenario)
        assert max(skills.values()) / sum(skills.values()) < 0.33
