"""Toy questions in the official annotation formats of ScanQA v1.0 and SQA3D v1.0.

Questions alternate between the two benchmarks, and scenes alternate in which comes first, so that
both get every kind. The official ScanQA test files withhold their answers; the toy world's does
not.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from experiments.toyworld.questions import ToyQuestion, questions
from experiments.toyworld.scene import Scene

SCANQA_FILES: Final = {
    "train": "ScanQA_v1.0_train.json",
    "val": "ScanQA_v1.0_val.json",
    "test": "ScanQA_v1.0_test_w_obj.json",
}
_SQA3D_NAME: Final = "v1_balanced_{what}_{split}_scannetv2.json"
_SITUATION = "I am standing in the middle of the room and look at the floating objects."
_OTHER_SITUATIONS = [
    "I stand still in the room and turn my head a little.",
    "I am in the middle of the room, facing the objects.",
]
_FIRST_SQA3D_ID = 220602000000


def scanqa(scenes: Sequence[Scene], split: str) -> list[dict[str, Any]]:
    """Return the records of a ScanQA file."""
    records = []
    for scene in scenes:
        for number, question in enumerate(_asked(scene)[scene.index % 2 :: 2]):
            objects = list(question.objects) or list(range(len(scene.objects)))
            named = [scene.objects[k] for k in objects]
            records.append(
                {
                    "answers": [question.answer],
                    "object_ids": objects,
                    "object_names": [f"{thing.colour} {thing.shape}" for thing in named],
                    "question": question.text,
                    "question_id": f"{split}-{scene.name.removesuffix('_00')}-{number}",
                    "scene_id": scene.name,
                }
            )
    return records


def sqa3d(scenes: Sequence[Scene], split: str) -> dict[str, dict[str, Any]]:
    """Return file name → content of the two files of a split: questions, and their answers."""
    asked = [(s, question) for s in scenes for question in _asked(s)[1 - s.index % 2 :: 2]]
    first = _FIRST_SQA3D_ID + {"train": 0, "val": 1, "test": 2}[split] * 10_000_000
    head = {
        "info": {"description": "V-LynX toy world in the format of SQA3D v1.0", "version": "1.0"},
        "license": {"name": "Apache License 2.0"},
        "data_type": "scannet",
        "data_subtype": "v2",
    }
    items = [(first + i, scene, question) for i, (scene, question) in enumerate(asked)]
    return {
        _SQA3D_NAME.format(what="questions", split=split): head
        | {
            "task_type": "Situated question answering",
            "questions": [_sqa3d_question(*item) for item in items],
        },
        _SQA3D_NAME.format(what="sqa_annotations", split=split): head
        | {"annotations": [_sqa3d_answer(*item) for item in items]},
    }


def _asked(scene: Scene) -> list[ToyQuestion]:
    """Return all questions about distances, and at most two of each other kind."""
    random = np.random.default_rng(scene.index)
    every = questions(scene)
    asked: list[ToyQuestion] = []
    for kind in dict.fromkeys(question.kind for question in every):
        of_kind = [question for question in every if question.kind == kind]
        if kind != "distance":
            of_kind = [of_kind[i] for i in sorted(random.permutation(len(of_kind))[:2])]
        asked += of_kind
    return asked


def _sqa3d_question(number: int, scene: Scene, question: ToyQuestion) -> dict[str, Any]:
    return {
        "scene_id": scene.name,
        "situation": _SITUATION,
        "alternative_situation": _OTHER_SITUATIONS,
        "question": question.text,
        "question_id": number,
    }


def _sqa3d_answer(number: int, scene: Scene, question: ToyQuestion) -> dict[str, Any]:
    forward = scene.poses[0, :3, 2]
    half_heading = float(np.arctan2(forward[1], forward[0])) / 2
    x, y, z = (float(value) for value in scene.poses[0, :3, 3])
    return {
        "scene_id": scene.name,
        "question_type": "N/A",
        "answer_type": "other",
        "question_id": number,
        "answers": [{"answer": question.answer, "answer_confidence": "yes", "answer_id": 1}],
        "rotation": {
            "_x": 0.0,
            "_y": 0.0,
            "_z": float(np.sin(half_heading)),
            "_w": float(np.cos(half_heading)),
        },
        "position": {"x": x, "y": y, "z": z},
    }
