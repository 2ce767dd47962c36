"""Sound of toy rooms: an ear that knows only frequencies and loudness hears what the facts say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datamodules.media.audio import read_sound
from datamodules.signals.log_mel import log_mel
from experiments.toyworld import sample_scene
from experiments.toyworld.scene import SHAPES
from experiments.toyworld.sound import LEVELS, SLOTS, SoundingRoom, Voice, add_sound, waveform
from experiments.toyworld.sounding_rooms import SoundingRooms

RATE = 16_000
sounding = st.builds(
    lambda seed, index: add_sound(sample_scene(seed, index), seed),
    st.integers(0, 2**31),
    st.integers(0, 9999),
)


def listen(samples: NDArray[np.float32]) -> list[tuple[str, float] | None]:
    """Shape and loudness in each half second, by the strongest frequency alone."""
    heard: list[tuple[str, float] | None] = []
    for slot in samples[: 4 * RATE].reshape(8, RATE // 2).astype(float):
        loudness = float(np.sqrt(np.mean(slot**2)))
        power = np.abs(np.fft.rfft(slot * np.hanning(len(slot)))) ** 2
        strongest = np.fft.rfftfreq(len(slot), 1 / RATE)[power.argmax()]
        shape = SHAPES[[0, 1, 2, 3][int(np.searchsorted([500, 1200, 3500], strongest))]]
        heard.append((shape, loudness) if loudness > 1e-3 else None)
    return heard


def facts(room: SoundingRoom) -> list[str | None]:
    shapes: list[str | None] = [None] * SLOTS
    for voice in room.voices:
        for slot in voice.slots:
            assert shapes[slot] is None, "two notes at once"
            shapes[slot] = voice.shape
    return shapes


@given(sounding)
def test_the_ear_hears_every_note(room: SoundingRoom) -> None:
    heard = listen(waveform(room))
    assert [note and note[0] for note in heard] == facts(room)
    loudness = {note[0]: note[1] for note in heard if note}
    by_ear = sorted(loudness, key=lambda shape: loudness[shape])
    assert by_ear == [v.shape for v in sorted(room.voices, key=lambda voice: voice.level)]


def test_notes_are_heard_in_the_file_too(tmp_path: Path) -> None:
    for index in range(8):
        room = SoundingRooms().make(tmp_path, 2, index, 64)
        sound = read_sound(tmp_path / "videos" / f"{room.scene.name}.mp4")
        assert sound.start == 0
        assert len(sound.waveform) / RATE == pytest.approx(4, abs=0.07)
        heard = listen(sound.waveform.numpy())
        assert [note and note[0] for note in heard] == facts(room)


@given(sounding)
def test_only_what_is_in_the_room_sounds(room: SoundingRoom) -> None:
    assert {voice.shape for voice in room.voices} <= {thing.shape for thing in room.scene.objects}
    assert room.voices
    assert all(1 <= len(voice.slots) <= 3 for voice in room.voices)
    first = [voice.slots[0] for voice in room.voices]
    assert first == sorted(first)
    samples = waveform(room)
    assert samples.shape == (4 * RATE,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() < 1


@given(st.integers(0, 2**31), st.integers(0, 9999))
def test_sound_depends_on_its_arguments_alone(seed: int, index: int) -> None:
    one, same = (add_sound(sample_scene(seed, index), seed) for _ in range(2))
    assert one.voices == same.voices
    assert (waveform(one) == waveform(same)).all()


def picture(voices: Sequence[Voice]) -> torch.Tensor:
    """What a frozen encoder of 64 pixels sees of 2 s, (64, 64)."""
    room = SoundingRoom(sample_scene(0, 0), tuple(voices))
    frames = log_mel(torch.from_numpy(waveform(room)), [1.0])[:, :1].float()
    small = torch.nn.functional.interpolate(frames, (64, 64), mode="bilinear", antialias=True)
    return small[0, 0]


@pytest.mark.parametrize("level", [LEVELS[0], LEVELS[-1]])
def test_shapes_differ_in_a_small_picture(level: float) -> None:
    rows = {}
    for shape, pitch in (("box", 130), ("sphere", 750), ("cylinder", 2000), ("cone", 4500)):
        voice = Voice(shape, pitch, level, (0,))
        note = picture([voice])[:, 2:12]
        strongest = note.amax(1)
        rows[shape] = int(strongest.argmax()) // 8  # row of patches
        assert strongest.max() > picture([replace(voice, slots=(7,))])[:, 2:12].max() + 20
    assert len(set(rows.values())) == 4, rows
    assert rows["box"] > rows["sphere"] > rows["cylinder"] > rows["cone"]  # low is below
