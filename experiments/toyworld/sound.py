"""Sound of toy rooms: each shape has a voice, and the video does not show which shapes sound.

Voices differ in pitch range and in the course of a note: boxes hum low, spheres whistle a pure
tone, cylinders ring like tubes, cones sweep upwards. Notes fill different slots of a grid, and all
objects of a shape sound together.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments.toyworld.scene import SHAPES, Scene
from experiments.toyworld.video_files import SAMPLE_RATE

SLOTS: Final = 8
SLOT_S: Final = 0.5
DURATION_S: Final = SLOTS * SLOT_S

PITCHES: Final = {
    "box": (110.0, 150.0),
    "sphere": (650.0, 850.0),
    "cylinder": (1800.0, 2200.0),
    "cone": (4200.0, 4800.0),
}
"""Lowest frequency of a voice in Hz, drawn from this range once per room."""

LEVELS: Final = (0.2, 0.06, 0.018, 0.0054)
"""Root mean square of a note; the steps are 10.5 dB, which is 22 grey levels of a log-mel frame."""

_NOTE_S = 0.35  # 1.4 patches of the miniature in a frame of 2 s
_LEAD_S = 0.05  # from the start of a slot to its note
_FADE_S = 0.015  # at both ends of a note, against clicks
_DECAY_S = 0.15  # time constant of a struck tube
_NOISE = 3e-4  # root mean square, -70 dB
_MOST_NOTES = 3  # per voice


@dataclass(frozen=True)
class Voice:
    """The sound of one shape in one room."""

    shape: str
    pitch: float  # Hz
    level: float  # root mean square of its notes
    slots: tuple[int, ...]  # ascending


@dataclass(frozen=True, eq=False)
class SoundingRoom:
    """A room, and the voices of the shapes that sound, in the order of their first notes."""

    scene: Scene
    voices: tuple[Voice, ...]

    @property
    def shapes(self) -> tuple[str, ...]:
        """Return all shapes in the room, whether or not they sound."""
        there = {thing.shape for thing in self.scene.objects}
        return tuple(shape for shape in SHAPES if shape in there)


def add_sound(scene: Scene, seed: int) -> SoundingRoom:
    """Let some or all shapes of a room sound, one to three times each, at different levels."""
    random = np.random.default_rng([seed, scene.index, 1])  # the room itself took [seed, index]
    shapes = SoundingRoom(scene, ()).shapes
    sounding = random.permutation(shapes)[: random.integers(1, len(shapes) + 1)]
    notes = random.integers(1, _MOST_NOTES + 1, len(sounding))
    while notes.sum() > SLOTS:
        notes = random.integers(1, _MOST_NOTES + 1, len(sounding))
    slots = np.split(random.permutation(SLOTS)[: notes.sum()], notes.cumsum()[:-1])
    levels = random.permutation(LEVELS)
    voices = [
        Voice(
            shape=str(shape),
            pitch=float(random.uniform(*PITCHES[shape])),
            level=float(level),
            slots=tuple(sorted(int(slot) for slot in taken)),
        )
        for shape, level, taken in zip(sounding, levels, slots, strict=False)
    ]
    return SoundingRoom(scene, tuple(sorted(voices, key=lambda voice: voice.slots)))


def waveform(room: SoundingRoom) -> NDArray[np.float32]:
    """Return the sound of a room over quiet noise, (N,) mono samples in −1…1 at 16 kHz."""
    random = np.random.default_rng(room.scene.index)
    samples = _NOISE * random.standard_normal(round(DURATION_S * SAMPLE_RATE))
    for voice in room.voices:
        note = voice.level * _note(voice.shape, voice.pitch)
        for slot in voice.slots:
            start = round((slot * SLOT_S + _LEAD_S) * SAMPLE_RATE)
            samples[start : start + len(note)] += note
    return samples.astype(np.float32)


def _note(shape: str, pitch: float) -> NDArray[np.float64]:
    """Return a note of root mean square 1."""
    t = np.arange(round(_NOTE_S * SAMPLE_RATE)) / SAMPLE_RATE  # s
    turns = pitch * t
    match shape:
        case "box":
            note = sum(np.sin(2 * np.pi * k * turns) / k for k in (1, 2, 3))
        case "sphere":
            note = np.sin(2 * np.pi * turns)
        case "cylinder":
            partials = np.sin(2 * np.pi * turns) + np.sin(2 * np.pi * 1.4 * turns)
            note = partials * np.exp(-t / _DECAY_S)
        case _:  # a cone: from the pitch to 1.5 times the pitch
            note = np.sin(2 * np.pi * turns * (1 + t / _NOTE_S / 4))
    fade = np.minimum(1, np.minimum(t, t[::-1]) / _FADE_S)
    note = note * np.sin(np.pi / 2 * fade) ** 2
    loud: NDArray[np.float64] = note / np.sqrt(np.mean(note**2))
    return loud
