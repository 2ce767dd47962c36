"""Takes in the format of Ego-Exo4D's demonstrator proficiency benchmark.

As in the original, the test file lists takes and keeps their labels back.
"""

from collections.abc import Sequence
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from datamodules.samples import Split
from experiments.toyworld.takes import BALLS, Take

_FILE: Final = "annotations/proficiency_demonstrator_{split}.json"
_TEST_FILE: Final = "annotations/demonstrator_proficiency_test_v2.json"
_TASK: Final = "{scenario} Drills - Eye on the Ball"
_FIRST_TASK_ID: Final = 9001


def ego_annotations(takes: Sequence[Take], split: Split) -> dict[str, object]:
    """File name → content of a split's annotation file."""
    if split == "test":
        return {_TEST_FILE: [take.name for take in takes]}
    return {_FILE.format(split=split): {"annotations": [_record(take) for take in takes]}}


def video_paths(take: Take) -> dict[str, str]:
    """View → path in the data root; views that did not film are left out."""
    folder = f"takes/{take.name}/frame_aligned_videos"
    exo = {f"exo{camera}": f"{folder}/cam{camera:02d}.mp4" for camera in take.cameras}
    return {"ego": f"{folder}/aria01_214-1.mp4"} | exo


def _record(take: Take) -> dict[str, Any]:
    return {
        "task_id": _FIRST_TASK_ID + list(BALLS).index(take.scenario),
        "task_name": _TASK.format(scenario=take.scenario),
        "scenario_name": take.scenario,
        "university_id": "toyworld",
        "origin_participant_id": str(take.scene.index),
        "take_uid": str(uuid5(NAMESPACE_URL, take.name)),
        "video_paths": video_paths(take),
        "proficiency_score": take.skill,
    }
