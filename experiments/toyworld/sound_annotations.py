"""Questions about sounding rooms in the official formats of AVSD, AVQA, MUSIC-AVQA and AVUT.

AVSD's dialogues first ask about what is visible, then about what is audible. In validation and test
only the last answer counts, so only the last question requires hearing: earlier answers could give
the last one away.
"""

import json
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

import numpy as np

from datamodules.samples import Split
from experiments.toyworld.hearing import CHOICES, TEMPLATES, HeardQuestion, heard_questions
from experiments.toyworld.questions import THREE_D, questions
from experiments.toyworld.sound import SoundingRoom

_ROUNDS = 10
_HEARD_ROUNDS = 5
_REFERENCES = (
    "{}",
    "{} .",
    "i think {}",
    "the answer is {}",
    "i would say {} .",
    "that would be {} .",
)

# Kind → question_relation and question_type of the official data.
_AVQA: Final = {
    "which": ("Sound", "Which"),
    "silent": ("Both", "Which"),
    "notes": ("Sound", "Happening"),
    "times": ("Sound", "Happening"),
    "shapes": ("Sound", "Happening"),
    "colour": ("Both", "Come From"),
}
# Kind → task_type of AVUT, whose matching tasks relate what is seen to what is heard.
_AVUT: Final = {
    "which": "Audio Information Extraction",
    "silent": "Audio Object Matching",
    "notes": "Audio Content Counting",
    "times": "Audio Content Counting",
    "shapes": "Audio Content Counting",
    "colour": "Audio Object Matching",
}
# Kind → modality and type of MUSIC-AVQA.
_MUSIC: Final = {
    "which": ("Audio-Visual", "Temporal"),
    "silent": ("Audio-Visual", "Existential"),
    "sounds": ("Audio-Visual", "Existential"),
    "before": ("Audio-Visual", "Temporal"),
    "louder": ("Audio", "Comparative"),
    "notes": ("Audio", "Counting"),
    "times": ("Audio", "Counting"),
    "shapes": ("Audio-Visual", "Counting"),
    "colour": ("Audio-Visual", "Comparative"),
    "where": ("Audio-Visual", "Location"),
}
# The same for visual questions, which MUSIC-AVQA has too.
_MUSIC_SEEN: Final = {"count": ("Visual", "Counting"), "where": ("Visual", "Location")}


def annotation_files(rooms: Sequence[SoundingRoom], split: Split) -> dict[str, Any]:
    """Return path → content of a split's files; AVQA has no test file, and AVUT no val file."""
    files = {f"music_avqa/avqa-{split}.json": _music_avqa(rooms)} | _avsd_files(rooms, split)
    if split != "test":
        files[f"avqa/{split}_qa.json"] = _avqa(rooms)
    if split != "val":
        files[f"avut/AV_{'Gemini' if split == 'train' else 'Human'}_data.json"] = _avut(
            rooms, split
        )
    return files


def _music_avqa(rooms: Sequence[SoundingRoom]) -> list[dict[str, Any]]:
    """Return the records of a MUSIC-AVQA file; ``anser`` is the official spelling."""
    records = []
    for room in rooms:
        asked = [
            (_MUSIC[q.kind], TEMPLATES[q.kind], q.values, q.answer) for q in heard_questions(room)
        ]
        for kind, kind_type in _MUSIC_SEEN.items():
            seen = [q for q in questions(room.scene) if q.kind == kind]
            asked += [(kind_type, q.text, (), q.answer) for q in seen[:1]]
        for number, (labels, template, values, answer) in enumerate(asked):
            records.append(
                {
                    "video_id": room.scene.name,
                    "question_id": _number(room, number),
                    "type": json.dumps(labels),
                    "question_content": template,
                    "templ_values": json.dumps(values),
                    "question_deleted": 0,
                    "anser": answer,
                }
            )
    return records


def _avqa(rooms: Sequence[SoundingRoom]) -> list[dict[str, Any]]:
    """Return the records of an AVQA file: the kinds with four answers to choose from."""
    records = []
    for room, number, question, choices in _multiple_choice(rooms):
        relation, kind_type = _AVQA[question.kind]
        records.append(
            {
                "id": number,
                "video_name": room.scene.name,
                "video_id": room.scene.index,
                "question_text": question.text,
                "multi_choice": choices,
                "answer": choices.index(question.answer),
                "question_relation": relation,
                "question_type": kind_type,
            }
        )
    return records


def _avut(rooms: Sequence[SoundingRoom], split: Split) -> list[dict[str, Any]]:
    """Return the records of an AVUT file: the questions of AVQA with balanced letters.

    The numbers of answers A, B, C and D differ by at most one: among all questions, among those of
    a task, and among those with the same words.
    """
    asked = sorted(_multiple_choice(rooms), key=lambda item: (_AVUT[item[2].kind], item[2].text))
    records = []
    for turn, (room, number, question, choices) in enumerate(asked):
        options = [choice for choice in choices if choice != question.answer]
        options.insert(turn % len(choices), question.answer)
        records.append(
            {
                "video_id": -1 if split == "train" else room.scene.index,
                "url": "",
                "video_type": "Toy World",
                "task_type": _AVUT[question.kind],
                "question": question.text,
                **{f"option_{letter}": text for letter, text in zip("ABCD", options, strict=True)},
                "answer": "ABCD"[options.index(question.answer)],
                "video_path": f"videos/{room.scene.name}.mp4",
                "QA_id": number,
            }
        )
    return sorted(records, key=itemgetter("QA_id"))


def _multiple_choice(
    rooms: Sequence[SoundingRoom],
) -> Iterator[tuple[SoundingRoom, int, HeardQuestion, list[str]]]:
    """Yield room, number, question, and four choices in random order."""
    for room in rooms:
        random = np.random.default_rng(room.scene.index)
        asked = [question for question in heard_questions(room) if question.kind in CHOICES]
        for number, question in enumerate(asked):
            yield room, _number(room, number), question, _four_choices(room, question, random)


def _four_choices(
    room: SoundingRoom, question: HeardQuestion, random: np.random.Generator
) -> list[str]:
    """Return the answer among three others, which preferably are in the room."""
    there = {thing.colour for thing in room.scene.objects} | set(room.shapes)
    others = [choice for choice in CHOICES[question.kind] if choice != question.answer]
    others = sorted(random.permutation(others).tolist(), key=lambda choice: choice not in there)
    shuffled: list[str] = random.permutation([question.answer, *others[:3]]).tolist()
    return shuffled


def _avsd_files(rooms: Sequence[SoundingRoom], split: Split) -> dict[str, Any]:
    dialogs = [_dialog(room, split) for room in rooms]
    kind = {"train": "train", "val": "valid", "test": "test"}[split]
    name = f"avsd/{kind}_set4DSTC7-AVSD"
    if split != "test":
        return {f"{name}.json": _avsd(dialogs)}
    withheld = []
    for dialog in dialogs:
        *history, last = dialog["dialog"]
        withheld.append(dialog | {"dialog": [*history, last | {"answer": "__UNDISCLOSED__"}]})
    return {
        f"{name}.json": _avsd(withheld),
        "avsd/lbl_test_set4DSTC7-AVSD.json": _avsd(dialogs),
        f"{name}_multiref.json": _references(dialogs),
    }


def _avsd(dialogs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "scene_aware_dialog", "version": "0.1", "dialogs": dialogs}


def _dialog(room: SoundingRoom, split: Split) -> dict[str, Any]:
    random = np.random.default_rng(room.scene.index)
    seen = [(q.text, q.answer) for q in questions(room.scene) if q.kind not in THREE_D]
    heard = [(q.text, q.answer) for q in heard_questions(room)]
    seen = [seen[i] for i in random.permutation(len(seen))]
    heard = [heard[i] for i in random.permutation(len(heard))]
    heard = heard[: _HEARD_ROUNDS if split == "train" else 1]
    seen = seen[: random.integers(_ROUNDS) if split == "test" else _ROUNDS - len(heard)]
    named = " and ".join(f"a {thing.colour} {thing.shape}" for thing in room.scene.objects)
    return {
        "image_id": room.scene.name,
        "summary": "objects float in a room while the camera turns .",
        "caption": f"there is {named} in a room .",
        "dialog": [{"question": _spaced(text), "answer": answer} for text, answer in seen + heard],
    }


def _spaced(text: str) -> str:
    """Write a question as AVSD does: lower case, with a space before the mark."""
    return text.lower().replace("?", " ?")


def _references(dialogs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return six wordings of each last answer in COCO's caption format."""
    images: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    for number, dialog in enumerate(dialogs, 1):
        name = f"{dialog['image_id']}_{len(dialog['dialog']) - 1}"
        images.append({"name": name, "id": number})
        for wording in _REFERENCES:
            text = wording.format(dialog["dialog"][-1]["answer"])
            captions.append({"image_id": number, "id": len(captions) + 1, "caption": text})
    return {
        "info": {},
        "licenses": [],
        "images": images,
        "type": "captions",
        "annotations": captions,
    }


def _number(room: SoundingRoom, question: int) -> int:
    return 100 * room.scene.index + question
