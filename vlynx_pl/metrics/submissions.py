"""Answers in the formats of the benchmarks' own evaluations, ready for JSON.

Rows keep their order, which must be that of the annotation file, as PAVE's evaluators compare files
line by line. ScanQA's and SQA3D's files are JSON Lines. Failed answers are empty.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from vlynx_pl.metrics.answered import Answered
from vlynx_pl.metrics.choices import strict_letter

Rows: TypeAlias = list[dict[str, Any]]
Submission: TypeAlias = Rows | dict[str, Any]


def avsd_dialogs(answered: Sequence[Answered]) -> dict[str, Any]:
    """DSTC7's result JSON, of which only the last answer of each dialogue is read."""
    dialogs = [
        {"image_id": a.clip or a.id, "dialog": [{"question": a.question, "answer": a.text}]}
        for a in answered
    ]
    return {"type": "scene_aware_dialog", "version": "0.1", "dialogs": dialogs}


def coco_captions(answered: Sequence[Answered]) -> Rows:
    """COCO's results, as PAVE and V-LynX score AVSD."""
    return [{"image_id": a.clip or a.id, "caption": a.text} for a in answered]


def avqa_rows(answered: Sequence[Answered]) -> Rows:
    """PAVE's and V-LynX's rows of AVQA."""
    return [{"question_id": a.id, "image_id": a.clip} | _said(a) for a in answered]


def egoexo_rows(answered: Sequence[Answered]) -> Rows:
    """PAVE's and V-LynX's rows of demonstrator proficiency."""
    return [{"image_id": a.id} | _said(a) for a in answered]


def music_rows(answered: Sequence[Answered]) -> Rows:
    """PAVE's and V-LynX's rows of MUSIC-AVQA."""
    return [
        {"index": index, "video_id": a.clip, "pred": a.text, "answer": _gold(a)}
        for index, a in enumerate(answered)
    ]


def scanqa_rows(answered: Sequence[Answered]) -> Rows:
    """PAVE's lines of ScanQA, whose ids are numbers in the order of the file, from 1."""
    return [
        {"question_id": f"{number:06d}", "prompt": a.question, "text": a.text}
        for number, a in enumerate(answered, 1)
    ]


def sqa3d_rows(answered: Sequence[Answered]) -> Rows:
    """PAVE's lines of SQA3D."""
    return [{"question_id": a.id, "prompt": a.question, "text": a.text} for a in answered]


def mlvu_rows(answered: Sequence[Answered]) -> Rows:
    """MLVU's result JSON, with the letter that the answer begins with."""
    return [
        {"question_id": a.id, "question_type": a.label("task"), "option": strict_letter(a.text)}
        for a in answered
    ]


def video_mme_videos(answered: Sequence[Answered]) -> Rows:
    """VideoMME's result JSON: videos with their questions; ``001-2`` is the second of ``001``."""
    videos: dict[str, dict[str, Any]] = {}
    for a in answered:
        name = a.id.rpartition("-")[0]
        about = {field: a.label(field) for field in ("duration", "domain", "sub_category")}
        video = videos.setdefault(name, {"video_id": name, **about, "questions": []})
        video["questions"].append(
            {
                "question_id": a.id,
                "task_type": a.label("task_type"),
                "question": a.question,
                "options": [f"{chr(65 + i)}. {text}" for i, text in enumerate(a.options)],
                "answer": _gold(a),
                "response": a.text,
            }
        )
    return list(videos.values())


def _said(answer: Answered) -> dict[str, Any]:
    return {"caption": answer.text, "answer": _gold(answer)}


def _gold(answer: Answered) -> str:
    return answer.references[0] if answer.references else ""
