"""Invented records in every official layout, and how they are written."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow.parquet import write_table

from datamodules.benchmarks import (
    AVQA,
    AVSD,
    AVUT,
    MLVU,
    SQA3D,
    Benchmark,
    EgoExo4D,
    InstructJSON,
    LLaVAVideo,
    MusicAVQA,
    MVBench,
    ScanQA,
    VideoMME,
)


class Official(NamedTuple):
    """Files of a split, and what reads them."""

    reader: type[Benchmark]
    split: str
    files: dict[str, Any]
    options: dict[str, Any] | None = None

    def open(self, folder: Path) -> Benchmark:
        """Write the files and give the benchmark."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".parquet"):
                write_table(pyarrow.Table.from_pylist(content), folder / name)
                continue
            lines = [json.dumps(row) for row in content] if name.endswith(".jsonl") else []
            (folder / name).write_text("\n".join(lines) or json.dumps(content))
        return self.reopen(folder)

    def reopen(self, folder: Path) -> Benchmark:
        """The benchmark of files that were written before."""
        name = next(iter(self.files))
        one_file = self.reader in {InstructJSON, VideoMME} and not name.endswith(".parquet")
        annotations = folder / name if one_file else folder
        return self.reader(annotations, **(self.options or {}))


def dialog(name: str, rounds: int, last: str = "the last answer .") -> dict[str, Any]:
    turns = [{"question": f"question {i} ?", "answer": f"answer {i} ."} for i in range(rounds)]
    turns[-1]["answer"] = last
    return {"image_id": name, "summary": "a toy", "caption": "a toy stands .", "dialog": turns}


def avsd(*dialogs: dict[str, Any]) -> dict[str, Any]:
    return {"type": "scene_aware_dialog", "version": "0.1", "dialogs": list(dialogs)}


def captions(**references: list[str]) -> dict[str, Any]:
    images = [{"name": name, "id": i} for i, name in enumerate(references, 1)]
    annotations = [
        {"image_id": i, "id": k, "caption": text}
        for i, texts in enumerate(references.values(), 1)
        for k, text in enumerate(texts, 1)
    ]
    return {"type": "captions", "images": images, "annotations": annotations}


def avqa(number: int, video: str = "toyVideo_01_000030", answer: int = 2) -> dict[str, Any]:
    return {
        "id": number,
        "video_name": video,
        "video_id": 9,
        "question_text": "What rings?",
        "multi_choice": ["a bell", "a cat", "an alarm clock", "rain"],
        "answer": answer,
        "question_relation": "Sound",
        "question_type": "Come From",
    }


def music(number: int, video: str = "00000007", kind: str = "Audio-Visual") -> dict[str, Any]:
    return {
        "video_id": video,
        "question_id": number,
        "type": json.dumps([kind, "Comparative"]),
        "question_content": "Is the <Object> on the <LR> louder than the <Object>？",
        "templ_values": json.dumps(["tuba", "left", "acoustic_guitar"]),
        "question_deleted": 0,
        "anser": "yes",
    }


def scanqa(number: int, scene: str = "scene0990_00") -> dict[str, Any]:
    return {
        "answers": ["teal", "blue green"],
        "object_ids": [4],
        "object_names": ["stool"],
        "question": "What colour is the stool?",
        "question_id": f"val-{scene[:9]}-{number}",
        "scene_id": scene,
    }


def sqa3d(*questions: str) -> dict[str, Any]:
    asked, answered = [], []
    for number, question in enumerate(questions, 220600000100):
        row = {"scene_id": "scene0990_00", "question_id": number}
        answer = {"answer": f"answer {number}", "answer_confidence": "yes"}
        asked.append(row | {"situation": "I face the stool.", "question": question})
        answered.insert(0, row | {"answers": [answer]})
    return {
        "v1_balanced_questions_test_scannetv2.json": {"info": {}, "questions": asked},
        "v1_balanced_sqa_annotations_test_scannetv2.json": {"annotations": answered},
    }


def conversation(name: str, *turns: str, video: str = "academic/toys/v_1.mp4") -> dict[str, Any]:
    """Turns are questions and answers in turns."""
    spoken = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(turns)
    ]
    return {"id": name, "conversations": spoken, "data_source": "toys", "video": video}


def video_mme(number: str, **fields: Any) -> dict[str, Any]:
    return {
        "question_id": number,
        "task_type": "Counting Problem",
        "question": "How many cubes fall?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. None."],
        "answer": "C",
    } | fields


ABOUT_VIDEO = {"video_id": "801", "duration": "short", "domain": "Toys", "sub_category": "Cubes"}


def mvbench(video: str = "17.webm", **fields: Any) -> dict[str, Any]:
    return {
        "video": video,
        "question": "What happens?",
        "candidates": ["It falls.", "It stands.", "It spins."],
        "answer": "It spins.",
    } | fields


def take(name: str, **fields: Any) -> dict[str, Any]:
    folder = f"takes/toy_{name}/frame_aligned_videos"
    return {
        "task_name": "Juggling",
        "scenario_name": "Toys",
        "take_uid": name,
        "video_paths": {"ego": f"{folder}/aria01_214-1.mp4", "exo1": f"{folder}/cam01.mp4"},
        "proficiency_score": "Early Expert",
    } | fields


def avut(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "video_id": -1,
        "url": "https://example.org/toy",
        "video_type": "vlog",
        "task_type": "Audio OCR Matching",
        "question": "What is written when the bell rings?",
        "option_A": "Toys",
        "option_B": "Cubes",
        "option_C": "",
        "option_D": "Bells",
        "answer": "C",
        "video_path": "data/toy.mp4",
        "QA_id": number,
    } | fields


def mlvu_row(task: str, video: str, **fields: Any) -> dict[str, Any]:
    listed = "What happens?\n(A) It falls.\n(B) It stands.\n(C) It spins."
    more = {"video_name": video, "duration": 9.5, "question": listed, "task_type": task}
    return mvbench(video) | {"answer": "C"} | more | fields


LLAVA = "1_2_m_academic_v0_1/1_2_m_academic_oe_v0_1_qa_processed.json"

OFFICIAL: dict[str, Official] = {
    "AVSD train": Official(
        AVSD, "train", {"train_set4DSTC7-AVSD.json": avsd(dialog("AB12C", 10), dialog("DE34F", 10))}
    ),
    "AVSD v0.1": Official(
        AVSD,
        "train",
        {
            "avsd_train.json": {
                "AB12C": {"data": dialog("", 10)["dialog"], "summary": "a toy", "script": "toys"}
            }
        },
    ),
    "AVSD val": Official(AVSD, "val", {"valid_set4DSTC7-AVSD.json": avsd(dialog("AB12C", 10))}),
    "AVSD test": Official(
        AVSD,
        "test",
        {
            "test_set4DSTC7-AVSD.json": avsd(dialog("AB12C", 3, "__UNDISCLOSED__")),
            "test_set4DSTC7-AVSD_multiref.json": captions(AB12C_2=["one", "two", "three"]),
        },
        {"references": "multiple"},
    ),
    "AVQA": Official(AVQA, "val", {"val_qa.json": [avqa(1), avqa(5, "other_000007"), avqa(2)]}),
    "MUSIC-AVQA": Official(MusicAVQA, "train", {"avqa-train.json": [music(3), music(4, "sa001")]}),
    "ScanQA": Official(ScanQA, "val", {"ScanQA_v1.0_val.json": [scanqa(0), scanqa(1)]}),
    "SQA3D": Official(SQA3D, "test", sqa3d("What is left of me?", "Is it far?")),
    "LLaVA-Video-178K": Official(
        LLaVAVideo,
        "train",
        {LLAVA: [conversation("v_1", "<image>\nWhy?", "So.", "And?", "No.")]},
        {"patterns": ["**/1_2_m_academic_oe_*.json"]},
    ),
    "instruct": Official(InstructJSON, "train", {"i.json": [conversation("a", "Why?", "So.")]}),
    "VideoMME nested": Official(
        VideoMME,
        "test",
        {"t.json": [ABOUT_VIDEO | {"questions": [video_mme("801-1"), video_mme("801-2")]}]},
    ),
    "VideoMME rows": Official(
        VideoMME, "test", {"t.jsonl": [ABOUT_VIDEO | video_mme("801-1", videoID="xYz-_1")]}
    ),
    "VideoMME on the hub": Official(
        VideoMME,
        "test",
        {
            "videomme/test-00000-of-00001.parquet": [
                ABOUT_VIDEO | video_mme("801-1", videoID="xYz-_1"),
                ABOUT_VIDEO | video_mme("801-2", videoID="xYz-_1"),
            ]
        },
    ),
    "MVBench": Official(
        MVBench,
        "test",
        {"state_change.json": [mvbench(), mvbench(start=1.5, end=4)]},
        {"tasks": ["state_change"]},
    ),
    "MLVU": Official(
        MLVU,
        "test",
        {
            "2_needle.json": [mvbench("needle_1.mp4", duration=9.5, question_type="findNeedle")],
            "9_summary.json": [{"video": "7.mp4", "question": "Sum up.", "answer": "A toy."}],
        },
        {"tasks": ["needle", "summary"]},
    ),
    "MLVU on the hub": Official(
        MLVU, "test", {"MLVU/json/4_count.json": [mvbench("count_1.mp4")]}, {"tasks": ["count"]}
    ),
    "MLVU for lmms-eval": Official(
        MLVU,
        "test",
        {
            "mlvu/test-00000-of-00001.parquet": [
                mlvu_row("ego", "a.mp4"),
                mlvu_row("count", "b.mp4"),
            ]
        },
    ),
    "Ego-Exo4D": Official(
        EgoExo4D,
        "val",
        {"proficiency_demonstrator_val.json": {"annotations": [take("aa-1"), take("bb-2")]}},
    ),
    "Ego-Exo4D test": Official(
        EgoExo4D, "test", {"demonstrator_proficiency_test_v2.json": ["toy_dance_1", "toy_dance_2"]}
    ),
    "AVUT": Official(AVUT, "train", {"AV_Gemini_data.json": [avut(0), avut(5)]}),
}
