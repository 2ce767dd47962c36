"""Questions about blinks in the formats of LLaVA-Video-178K, VideoMME, MVBench and MLVU.

Training clips go to LLaVA-Video-178K, open-ended and multiple-choice, as it was made for training.
The other three were made for tests alone: validation clips go to MVBench, test clips to VideoMME
and MLVU. LLaVA-Video-178K and VideoMME name files in ``videos/``, MVBench and MLVU files in a
folder of the task (:func:`video_places`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from datamodules.samples import Split
from experiments.toyworld.blink_questions import blink_questions, first_within, options
from experiments.toyworld.blinks import FPS, FRAMES, PARTS, BlinkClip
from experiments.toyworld.questions import ToyQuestion

_LLAVA_VIDEO: Final = "llava_video/0_30_s_toyworld_{form}_v0_1_qa_processed.json"
_SOURCE: Final = "0_30_s_toyworld_v0_1"
_LETTER_ONLY: Final = "Please respond with only the letter of the correct answer."
_TURNS = 2  # questions of a multiple-choice conversation

# Kind of question → task. VideoMME always has four options, which two-answer kinds lack.
_VIDEOMME_TASKS: Final = {
    "count": "Counting Problem",
    "first": "Object Recognition",
    "last": "Object Recognition",
    "order": "Temporal Reasoning",
}
_MVBENCH_TASKS: Final = {
    "blinks": "object_existence",
    "before": "object_existence",
    "count": "action_count",
    "order": "character_order",
}
_MVBENCH_BOUNDED: Final = "action_sequence"
_MVBENCH_FOLDERS: Final = {  # from MVBench's notebook
    "object_existence": "clevrer/video_validation",
    "action_count": "perception/videos",
    "character_order": "perception/videos",
    "action_sequence": "star/Charades_v1_480",
}
_MLVU_TASKS: Final = {  # file, and what the file calls itself inside
    "side": ("1_plotQA", "plotQA"),
    "sooner": ("1_plotQA", "plotQA"),
    "first": ("2_needle", "findNeedle"),
    "last": ("2_needle", "findNeedle"),
    "count": ("4_count", "count"),
    "order": ("5_order", "order"),
}


def fast_annotations(clips: Sequence[BlinkClip], split: Split) -> dict[str, list[dict[str, Any]]]:
    """File name → content of a split's annotation files."""
    match split:
        case "train":
            return llava_video(clips)
        case "val":
            return mvbench(clips)
        case "test":
            return videomme(clips) | mlvu(clips)


def video_places(files: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Paths at which MVBench and MLVU look for the videos of their annotation files."""
    places = set()
    for name, records in files.items():
        path = PurePosixPath(name)
        benchmark, task = path.parts[0], path.stem
        if benchmark in ("mvbench", "mlvu"):
            folder = _MVBENCH_FOLDERS.get(task, task)
            places |= {f"{benchmark}/video/{folder}/{record['video']}" for record in records}
    return sorted(places)


def llava_video(clips: Sequence[BlinkClip]) -> dict[str, list[dict[str, Any]]]:
    """LLaVA-Video-178K's two files: a question a record, and two multiple choices a record."""
    files: dict[str, list[dict[str, Any]]] = {}
    for form, turns in (("oe", 1), ("mc", _TURNS)):
        files[_LLAVA_VIDEO.format(form=form)] = [
            _conversation(clip, part, form == "mc")
            for clip in clips
            for part in _runs(blink_questions(clip), turns)
        ]
    return files


def videomme(clips: Sequence[BlinkClip]) -> dict[str, list[dict[str, Any]]]:
    """VideoMME's template, to be filled in with responses."""
    return {
        "videomme/output_test_template.json": [
            {
                "video_id": clip.name,
                "duration": "short",
                "domain": "Toy World",
                "sub_category": "Room",
                "questions": [
                    {
                        "question_id": f"{clip.name}-{number}",
                        "task_type": _VIDEOMME_TASKS[question.kind],
                        "question": question.text,
                        "options": [
                            f"{letter}. {text}" for letter, text in _lettered(clip, question)
                        ],
                        "answer": _letter(clip, question),
                        "response": "",
                    }
                    for number, question in enumerate(_with_four_options(clip), 1)
                ],
            }
            for clip in clips
        ]
    }


def mvbench(clips: Sequence[BlinkClip]) -> dict[str, list[dict[str, Any]]]:
    """MVBench's files, a task each; one of them asks about a part of the video."""
    tasks = defaultdict(list)
    for clip in clips:
        for question in blink_questions(clip):
            if question.kind in _MVBENCH_TASKS:
                tasks[_MVBENCH_TASKS[question.kind]].append(_candidates(clip, question))
        for part in PARTS:
            for question in first_within(clip, part):
                bounds = dict(zip(("start", "end"), part, strict=True))
                tasks[_MVBENCH_BOUNDED].append(_candidates(clip, question) | bounds)
    return {f"mvbench/json/{task}.json": records for task, records in tasks.items()}


def mlvu(clips: Sequence[BlinkClip]) -> dict[str, list[dict[str, Any]]]:
    """MLVU's files, a task each."""
    tasks = defaultdict(list)
    for clip in clips:
        for question in blink_questions(clip):
            if question.kind in _MLVU_TASKS:
                name, kind = _MLVU_TASKS[question.kind]
                record = _candidates(clip, question)
                record |= {"duration": round(FRAMES / FPS, 2), "question_type": kind}
                tasks[name].append(record)
    return {f"mlvu/json/{name}.json": records for name, records in tasks.items()}


def _conversation(
    clip: BlinkClip, asked: Sequence[ToyQuestion], multiple_choice: bool
) -> dict[str, Any]:
    turns = []
    for question in asked:
        text, answer = question.text, question.answer
        if multiple_choice:
            choices = [f"{letter}. {choice}" for letter, choice in _lettered(clip, question)]
            text = "\n".join([text, *choices, _LETTER_ONLY])
            answer = f"{_letter(clip, question)}."
        turns += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {
        "id": clip.name,
        "conversations": turns,
        "data_source": _SOURCE,
        "video": f"{clip.name}.mp4",
    }


def _runs(asked: Sequence[ToyQuestion], length: int) -> list[Sequence[ToyQuestion]]:
    return [asked[i : i + length] for i in range(0, len(asked), length)]


def _candidates(clip: BlinkClip, question: ToyQuestion) -> dict[str, Any]:
    return {
        "video": f"{clip.name}.mp4",
        "question": question.text,
        "candidates": list(options(clip, question)),
        "answer": question.answer,
    }


def _with_four_options(clip: BlinkClip) -> list[ToyQuestion]:
    asked = [question for question in blink_questions(clip) if question.kind in _VIDEOMME_TASKS]
    return [question for question in asked if len(options(clip, question)) == 4]


def _lettered(clip: BlinkClip, question: ToyQuestion) -> list[tuple[str, str]]:
    return list(zip("ABCD", options(clip, question), strict=False))


def _letter(clip: BlinkClip, question: ToyQuestion) -> str:
    return "ABCD"[options(clip, question).index(question.answer)]
