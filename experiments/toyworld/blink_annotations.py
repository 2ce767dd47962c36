"""Questions about blinks in the formats of LLaVA-Video-178K, VideoMME, MVBench and MLVU.

Training clips go to LLaVA-Video-178K, open-ended and multiple-choice. The other three are test
sets: validation clips go to MVBench, test clips to VideoMME and MLVU. LLaVA-Video-178K and VideoMME
name files in ``videos/``, MVBench and MLVU name files in a folder per task (:func:`video_paths`).
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from datamodules.samples import Split
from experiments.toyworld.blink_questions import blink_questions, first_within, options
from experiments.toyworld.blinks import FPS, FRAMES, PARTS, BlinkClip
from experiments.toyworld.questions import ToyQuestion

_SOURCE: Final = "0_30_s_toyworld_v0_1"
_LETTER_ONLY: Final = "Please respond with only the letter of the correct answer."

# Kind of question → task. VideoMME always has four options, so kinds with two answers are missing.
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
_MLVU_TASKS: Final = {  # name of the file, and the question_type inside it
    "side": ("1_plotQA", "plotQA"),
    "sooner": ("1_plotQA", "plotQA"),
    "first": ("2_needle", "findNeedle"),
    "last": ("2_needle", "findNeedle"),
    "count": ("4_count", "count"),
    "order": ("5_order", "order"),
}

Files = dict[str, list[dict[str, Any]]]
"""Path → records."""


def annotation_files(clips: Sequence[BlinkClip], split: Split) -> Files:
    """Return the content of a split's annotation files."""
    match split:
        case "train":
            return _llava_video(clips)
        case "val":
            return _mvbench(clips)
        case "test":
            return _videomme(clips) | _mlvu(clips)


def video_paths(files: Files) -> list[str]:
    """Return the paths at which MVBench and MLVU look for the videos of annotation files."""
    paths = set()
    for name, records in files.items():
        benchmark, task = PurePosixPath(name).parts[0], PurePosixPath(name).stem
        if benchmark in ("mvbench", "mlvu"):
            folder = _MVBENCH_FOLDERS.get(task, task)
            paths |= {f"{benchmark}/video/{folder}/{record['video']}" for record in records}
    return sorted(paths)


def _llava_video(clips: Sequence[BlinkClip]) -> Files:
    """Two files: records of one open-ended question, and of two multiple-choice questions."""
    files: Files = {}
    for form, turns in (("oe", 1), ("mc", 2)):
        files[f"llava_video/0_30_s_toyworld_{form}_v0_1_qa_processed.json"] = [
            _conversation(clip, asked[i : i + turns], form == "mc")
            for clip in clips
            for asked in (blink_questions(clip),)
            for i in range(0, len(asked), turns)
        ]
    return files


def _videomme(clips: Sequence[BlinkClip]) -> Files:
    """VideoMME's template for responses."""
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
                        "options": _lettered(clip, question),
                        "answer": _letter(clip, question),
                        "response": "",
                    }
                    for number, question in enumerate(_with_four_options(clip), 1)
                ],
            }
            for clip in clips
        ]
    }


def _mvbench(clips: Sequence[BlinkClip]) -> Files:
    """One file per task; one of the tasks asks about a part of the video."""
    tasks = defaultdict(list)
    for clip in clips:
        for question in blink_questions(clip):
            if question.kind in _MVBENCH_TASKS:
                tasks[_MVBENCH_TASKS[question.kind]].append(_candidates(clip, question))
        for start, end in PARTS:
            for question in first_within(clip, (start, end)):
                bounds = {"start": start, "end": end}
                tasks[_MVBENCH_BOUNDED].append(_candidates(clip, question) | bounds)
    return {f"mvbench/json/{task}.json": records for task, records in tasks.items()}


def _mlvu(clips: Sequence[BlinkClip]) -> Files:
    """One file per task."""
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
            text = "\n".join([text, *_lettered(clip, question), _LETTER_ONLY])
            answer = f"{_letter(clip, question)}."
        turns += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {
        "id": clip.name,
        "conversations": turns,
        "data_source": _SOURCE,
        "video": f"{clip.name}.mp4",
    }


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


def _lettered(clip: BlinkClip, question: ToyQuestion) -> list[str]:
    shown = zip("ABCD", options(clip, question), strict=False)
    return [f"{letter}. {text}" for letter, text in shown]


def _letter(clip: BlinkClip, question: ToyQuestion) -> str:
    return "ABCD"[options(clip, question).index(question.answer)]
