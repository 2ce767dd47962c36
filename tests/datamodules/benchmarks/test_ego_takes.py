"""Ego-Exo4D."""

import pytest
from official_layouts import take

from datamodules.benchmarks import EgoExo4D, prompts
from datamodules.samples import BadSample

VAL, TEST = "proficiency_demonstrator_val.json", "demonstrator_proficiency_test_v2.json"


def test_a_take_with_its_views(read):
    (episode,) = read(EgoExo4D, "val", VAL, {"annotations": [take("aa-1")]})
    folder = "takes/toy_aa-1/frame_aligned_videos"
    assert episode.name == "aa-1"
    assert episode.media == {"ego": f"{folder}/aria01_214-1.mp4", "exo1": f"{folder}/cam01.mp4"}
    (question,) = episode.questions
    assert question.prompt == prompts.ego_exo4d() and question.answers == ("Early Expert",)
    assert question.labels == {"scenario": "Toys", "task": "Juggling"}


@pytest.mark.parametrize(
    ("paths", "roles"),
    [
        ({"ego": "e.mp4", "exo9": "x.mp4"}, ["ego"]),
        ({"exo4": "4.mp4", "ego": "e.mp4", "exo2": "2.mp4"}, ["ego", "exo2", "exo4"]),
    ],
)
def test_takes_miss_views(read, paths, roles):
    (episode,) = read(EgoExo4D, "val", VAL, {"annotations": [take("a", video_paths=paths)]})
    assert list(episode.media) == roles


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"video_paths": {"exo1": None}}, "video_paths should be at least one of ego"),
        ({"video_paths": {"ego": "../e.mp4"}}, r"take_uid 'a'\), video_paths: ego should be"),
        ({"video_paths": ["e.mp4"]}, "video_paths should be an object"),
        ({"proficiency_score": "Expert"}, "one of Novice, Early Expert"),
    ],
)
def test_takes_that_do_not_fit(read, fields, words):
    with pytest.raises(BadSample, match=words):
        read(EgoExo4D, "val", VAL, {"annotations": [take("a", **fields)]})


def test_test_takes_are_names_only(read):
    first, second = read(EgoExo4D, "test", TEST, ["toy_dance_1", "toy_dance_2"])
    assert first.media == {"take": "takes/toy_dance_1"} and second.name == "toy_dance_2"
    assert first.questions[0].answers == ()


@pytest.mark.parametrize("names", [["../a"], [5], ["a", "a"], {"a": 1}, []])
def test_test_takes_that_are_not_names(read, names):
    with pytest.raises(BadSample, match=TEST):
        read(EgoExo4D, "test", TEST, names)
