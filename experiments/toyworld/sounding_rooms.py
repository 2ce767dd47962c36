"""The audio world: rooms with sound, with questions of AVSD, AVQA, MUSIC-AVQA and AVUT."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from datamodules.signals.log_mel import log_mel
from experiments.toyworld.contact_sheet import pairs_of_panels, show, title
from experiments.toyworld.files import write_json
from experiments.toyworld.hearing import heard_questions
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import sample_scene
from experiments.toyworld.sound import DURATION_S, SoundingRoom, add_sound, waveform
from experiments.toyworld.sound_annotations import annotation_files
from experiments.toyworld.video_files import write_video

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FPS = 4
_FRAMES = round(DURATION_S * _FPS)
_ROWS, _COLUMNS = 4, 3


def make(out: Path, seed: int, index: int) -> SoundingRoom:
    """Write ``videos/<name>.mp4``: the room of the 3d world with the same seed, and its sound."""
    room = add_sound(sample_scene(seed, index, _FRAMES), seed)
    write_video(_video(out, room), render_scene(room.scene).colour, _FPS, waveform(room))
    return room


def annotate(out: Path, splits: Mapping[Split, Sequence[SoundingRoom]]) -> None:
    """Write ``avsd/``, ``avqa/``, ``music_avqa/`` and ``avut/``."""
    for split, rooms in splits.items():
        write_json(out, annotation_files(rooms, split))


def draw(figure: "Figure", out: Path, facts: Sequence[SoundingRoom]) -> None:
    """Draw a frame and the log-mel spectrogram of some clips, with a question each."""
    # Where all objects have the same shape, only numbers can be asked for.
    shown = [room for room in facts if len(room.shapes) > 1]
    pairs = pairs_of_panels(figure, _ROWS, _COLUMNS, 1.9, (1, 2))
    for number, (room, (left, right)) in enumerate(zip(shown, pairs, strict=False)):
        recording = read_video(_video(out, room), [Request(Uniform(1))], sound=True)
        assert recording.sound is not None
        show(left, recording.streams[0].pixels[0])
        (spectrogram,) = log_mel(recording.sound.waveform, [DURATION_S / 2], DURATION_S)
        show(right, spectrogram, aspect="auto")
        asked = heard_questions(room)
        question = asked[7 * number % len(asked)]  # another kind in every room
        title(right, question.text, question.answer, 50)
    figure.suptitle("Toy world with sound: a frame, and the log-mel picture of 4 s")


def _video(out: Path, room: SoundingRoom) -> Path:
    return out / "videos" / f"{room.scene.name}.mp4"
