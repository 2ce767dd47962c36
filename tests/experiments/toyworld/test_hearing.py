"""Questions about sounding rooms: sight and sound give every answer, sight alone gives none."""

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from experiments.toyworld import render_scene, sample_scene
from experiments.toyworld.hearing import TEMPLATES, HeardQuestion, heard_questions
from experiments.toyworld.render import Rendered
from experiments.toyworld.scene import SHAPES, Scene
from experiments.toyworld.sound import SoundingRoom, add_sound, waveform
from experiments.toyworld.sounding_rooms import SoundingRooms
from experiments.toyworld.video_files import write_video

NUMBERS = ("no", "one", "two", "three", "four")
sounding = st.builds(
    lambda seed, index: add_sound(sample_scene(seed, index), seed),
    st.integers(0, 2**31),
    st.integers(0, 9999),
)


class Listener:
    """Answers from samples and object numbers, never from voices; shape and colour on trust."""

    def __init__(self, room: SoundingRoom, rendered: Rendered) -> None:
        self.things = room.scene.objects
        self.rendered = rendered
        self.notes: list[tuple[str, float]] = []  # shape and loudness, in order
        for slot in waveform(room).reshape(8, -1).astype(float):
            loudness = float(np.sqrt(np.mean(slot**2)))
            if loudness > 1e-3:
                strongest = float(np.abs(np.fft.rfft(slot)).argmax() / (len(slot) / 16_000))
                self.notes.append(
                    (SHAPES[int(np.digitize(strongest, [500, 1200, 3500]))], loudness)
                )
        self.order = [shape for shape, _ in self.notes]
        self.loudness = dict(self.notes)

    def at(self, moment: str) -> str:
        if moment == "loudest":
            return max(self.loudness, key=lambda shape: self.loudness[shape])
        return self.order[0 if moment == "first" else -1]

    def answer(self, question: HeardQuestion) -> str:
        words = question.text.rstrip("?").split()
        named = [word for word in words if word in SHAPES]
        shapes = {thing.shape for thing in self.things}
        match question.kind:
            case "notes":
                return NUMBERS[len(self.notes)]
            case "times":
                return NUMBERS[self.order.count(named[0])]
            case "shapes":
                return NUMBERS[len(set(self.order))]
            case "sounds":
                return "yes" if named[0] in self.order else "no"
            case "silent":
                (silent,) = shapes - set(self.order)
                return silent
            case "before":
                return "yes" if self.order.index(named[0]) < self.order.index(named[1]) else "no"
            case "louder":
                return "yes" if self.loudness[named[0]] > self.loudness[named[1]] else "no"
        (moment,) = {"first", "last", "loudest"} & set(words)
        shape = self.at(moment)
        if question.kind == "which":
            return shape
        (k,) = [k for k, thing in enumerate(self.things) if thing.shape == shape]
        if question.kind == "colour":
            return self.things[k].colour
        across = [np.argwhere(frame == k)[:, 1].mean() for frame in self.rendered.objects]
        assert len(set(np.sign(np.subtract(across, 31.5)))) == 1, "frames disagree"
        return "left" if across[0] < 31.5 else "right"


def test_sound_and_sight_give_every_answer(rooms: list[tuple[Scene, Rendered]]) -> None:
    seen: Counter[str] = Counter()
    for scene, rendered in rooms:
        for seed in range(3):
            room = add_sound(scene, seed)
            listener = Listener(room, rendered)
            for question in heard_questions(room):
                assert listener.answer(question) == question.answer, (scene.name, question)
                seen[question.kind] += 1
    assert min(seen[kind] for kind in TEMPLATES) >= 10, seen


def test_the_same_pictures_sound_otherwise(tmp_path: Path) -> None:
    """Permute who sounds: no pixel changes, and answers do."""
    world, changed = SoundingRooms(), 0
    for index in range(8):
        room = world.make(tmp_path / "a", 1, index, 64)
        turned = [v.shape for v in room.voices[1:] + room.voices[:1]]
        other = replace(room, voices=tuple(
            replace(v, shape=shape) for v, shape in zip(room.voices, turned, strict=True)
        ))  # fmt: skip
        files = [tmp_path / name / "videos" / f"{room.scene.name}.mp4" for name in "ab"]
        write_video(files[1], render_scene(room.scene).colour, 4, waveform(other))
        one, two = (read_video(file, [Request(Uniform(16))]).streams[0] for file in files)
        assert (one.pixels == two.pixels).all()
        before = {q.text: q.answer for q in heard_questions(room)}
        after = {q.text: q.answer for q in heard_questions(other)}
        changed += sum(before[text] != after[text] for text in before.keys() & after.keys())
    assert changed >= 10


def test_who_sees_everything_and_hears_nothing_must_guess() -> None:
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for index in range(40):
        scene = sample_scene(5, index)
        answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for seed in range(30):
            for question in heard_questions(add_sound(scene, seed)):
                answers[question.kind, question.text][question.answer] += 1
        for (kind, _), counts in answers.items():
            right[kind] += max(counts.values())  # the best guess for this room and question
            asked[kind] += counts.total()
    assert asked.keys() == TEMPLATES.keys()
    for kind in TEMPLATES:
        assert right[kind] / asked[kind] < 0.65, kind


def test_no_answer_prevails() -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for i in range(600):
        for question in heard_questions(add_sound(sample_scene(11, i), 11)):
            answers[question.kind][question.answer] += 1
    for kind in ("sounds", "before", "louder"):
        assert answers[kind]["yes"] == answers[kind]["no"], kind
    for kind, most in (
        ("which", 0.32), ("silent", 0.34), ("colour", 0.2), ("where", 0.58),
        ("notes", 0.4), ("times", 0.42), ("shapes", 0.5),
    ):  # fmt: skip
        assert max(answers[kind].values()) / answers[kind].total() < most, kind


@given(sounding)
def test_questions_are_asked_once_and_filled_in(room: SoundingRoom) -> None:
    asked = heard_questions(room)
    assert asked
    assert len({question.text for question in asked}) == len(asked)
    assert not any("<" in question.text for question in asked)


@given(sounding)
def test_a_room_of_one_shape_asks_for_numbers_only(room: SoundingRoom) -> None:
    if len({thing.shape for thing in room.scene.objects}) == 1:
        assert {question.kind for question in heard_questions(room)} <= {"notes", "times"}
