"""Sounding rooms: frequencies and loudness give every answer, and frames alone give none."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datamodules.media.audio import read_sound
from datamodules.signals.log_mel import log_mel
from experiments.toyworld import sample_scene, sounding_rooms
from experiments.toyworld.hearing import TEMPLATES, HeardQuestion, heard_questions
from experiments.toyworld.questions import COUNTS
from experiments.toyworld.render import Rendered
from experiments.toyworld.scene import SHAPES
from experiments.toyworld.sound import LEVELS, SLOTS, SoundingRoom, Voice, add_sound, waveform
from experiments.toyworld.video_files import SAMPLE_RATE
from tests.experiments.toyworld.pixels import CENTRE

seeds, numbers = st.integers(0, 2**31), st.integers(0, 9999)
sounding = st.builds(lambda seed, index: add_sound(sample_scene(seed, index), seed), seeds, numbers)


def listen(samples: NDArray[np.float32]) -> list[tuple[str, float] | None]:
    """Shape and loudness in each half second, by the strongest frequency alone."""
    heard: list[tuple[str, float] | None] = []
    for slot in samples[: 4 * SAMPLE_RATE].reshape(SLOTS, -1).astype(float):
        loudness = float(np.sqrt(np.mean(slot**2)))
        power = np.abs(np.fft.rfft(slot * np.hanning(len(slot)))) ** 2
        strongest = np.fft.rfftfreq(len(slot), 1 / SAMPLE_RATE)[power.argmax()]
        shape = SHAPES[int(np.searchsorted([500, 1200, 3500], strongest))]
        heard.append((shape, loudness) if loudness > 1e-3 else None)
    return heard


def shapes_heard(samples: NDArray[np.float32]) -> list[str | None]:
    return [note and note[0] for note in listen(samples)]


def facts(room: SoundingRoom) -> list[str | None]:
    shapes: list[str | None] = [None] * SLOTS
    for voice in room.voices:
        for slot in voice.slots:
            assert shapes[slot] is None, "two notes at once"
            shapes[slot] = voice.shape
    return shapes


# Sound ------------------------------------------------------------------------------------------


@given(sounding)
def test_every_note_is_heard(room: SoundingRoom):
    samples = waveform(room)
    assert shapes_heard(samples) == facts(room)
    loudness = {note[0]: note[1] for note in listen(samples) if note}
    by_ear = sorted(loudness, key=lambda shape: loudness[shape])
    assert by_ear == [v.shape for v in sorted(room.voices, key=lambda voice: voice.level)]


def test_notes_are_heard_in_the_file_too(tmp_path):
    for index in range(8):
        room = sounding_rooms.make(tmp_path, 2, index)
        sound = read_sound(tmp_path / "videos" / f"{room.scene.name}.mp4")
        assert sound.start == 0
        assert len(sound.waveform) / SAMPLE_RATE == pytest.approx(4, abs=0.07)
        assert shapes_heard(sound.waveform.numpy()) == facts(room)


@given(sounding)
def test_only_what_is_in_the_room_sounds(room: SoundingRoom):
    assert {voice.shape for voice in room.voices} <= {thing.shape for thing in room.scene.objects}
    assert room.voices
    assert all(1 <= len(voice.slots) <= 3 for voice in room.voices)
    first = [voice.slots[0] for voice in room.voices]
    assert first == sorted(first)
    samples = waveform(room)
    assert samples.shape == (4 * SAMPLE_RATE,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() < 1


@given(seeds, numbers)
def test_sound_depends_on_its_arguments_alone(seed: int, index: int):
    one, same = (add_sound(sample_scene(seed, index), seed) for _ in range(2))
    assert one.voices == same.voices
    assert (waveform(one) == waveform(same)).all()


def spectrogram(voices: Sequence[Voice]) -> torch.Tensor:
    """What an encoder of 64 × 64 pixels gets of 2 s, (64, 64)."""
    room = SoundingRoom(sample_scene(0, 0), tuple(voices))
    frames = log_mel(torch.from_numpy(waveform(room)), [1.0])[:, :1].float()
    small = torch.nn.functional.interpolate(frames, (64, 64), mode="bilinear", antialias=True)
    return small[0, 0]


@pytest.mark.parametrize("level", [LEVELS[0], LEVELS[-1]])
def test_shapes_differ_in_a_small_spectrogram(level):
    rows = {}
    for shape, pitch in (("box", 130), ("sphere", 750), ("cylinder", 2000), ("cone", 4500)):
        voice = Voice(shape, pitch, level, (0,))
        strongest = spectrogram([voice])[:, 2:12].amax(1)
        rows[shape] = int(strongest.argmax()) // 8  # row of patches
        assert strongest.max() > spectrogram([replace(voice, slots=(7,))])[:, 2:12].max() + 20
    assert rows["box"] > rows["sphere"] > rows["cylinder"] > rows["cone"]  # low is below


# Questions --------------------------------------------------------------------------------------


class Observer:
    """Answers from samples and object numbers, never from voices; shape and colour on trust."""

    def __init__(self, room: SoundingRoom, rendered: Rendered) -> None:
        self.things = room.scene.objects
        self.rendered = rendered
        notes = [note for note in listen(waveform(room)) if note]
        self.order = [shape for shape, _ in notes]
        self.loudness = dict(notes)

    def at(self, which: str) -> str:
        if which == "loudest":
            return max(self.loudness, key=lambda shape: self.loudness[shape])
        return self.order[0 if which == "first" else -1]

    def answer(self, question: HeardQuestion) -> str:
        words = question.text.rstrip("?").split()
        named = [word for word in words if word in SHAPES]
        shapes = {thing.shape for thing in self.things}
        match question.kind:
            case "notes":
                return COUNTS[len(self.order)]
            case "times":
                return COUNTS[self.order.count(named[0])]
            case "shapes":
                return COUNTS[len(set(self.order))]
            case "sounds":
                return "yes" if named[0] in self.order else "no"
            case "silent":
                (silent,) = shapes - set(self.order)
                return silent
            case "before":
                return "yes" if self.order.index(named[0]) < self.order.index(named[1]) else "no"
            case "louder":
                return "yes" if self.loudness[named[0]] > self.loudness[named[1]] else "no"
        (which,) = {"first", "last", "loudest"} & set(words)
        shape = self.at(which)
        if question.kind == "which":
            return shape
        (k,) = [k for k, thing in enumerate(self.things) if thing.shape == shape]
        if question.kind == "colour":
            return self.things[k].colour
        across = [np.argwhere(frame == k)[:, 1].mean() for frame in self.rendered.objects]
        assert len(set(np.sign(np.subtract(across, CENTRE)))) == 1, "frames disagree"
        return "left" if across[0] < CENTRE else "right"


def test_sound_and_sight_give_every_answer(rooms):
    seen: Counter[str] = Counter()
    for scene, rendered in rooms:
        for seed in range(3):
            room = add_sound(scene, seed)
            observer = Observer(room, rendered)
            for question in heard_questions(room):
                assert observer.answer(question) == question.answer, (scene.name, question)
                seen[question.kind] += 1
    assert min(seen[kind] for kind in TEMPLATES) >= 10, seen


def test_without_hearing_one_must_guess():
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


@given(sounding)
def test_a_room_of_one_shape_asks_for_numbers_only(room: SoundingRoom):
    if len(room.shapes) == 1:
        assert {question.kind for question in heard_questions(room)} <= {"notes", "times"}
