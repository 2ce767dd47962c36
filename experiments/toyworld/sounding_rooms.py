"""The world of rooms with sound: videos, and questions of AVSD, AVQA, MUSIC-AVQA and AVUT."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from datamodules.signals.log_mel import log_mel
from experiments.toyworld.hearing import heard_questions
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import sample_scene
from experiments.toyworld.sound import DURATION_S, SoundingRoom, add_sound, waveform
from experiments.toyworld.sound_annotations import write_annotations
from experiments.toyworld.video_files import write_video

_FPS = 4
_FRAMES = round(DURATION_S * _FPS)
_ROWS, _COLUMNS = 4, 3


@dataclass(frozen=True)
class SoundingRooms:
    """The rooms of the 3d world with the same seed, some of whose shapes sound."""

    name: str = "audio"

    def make(self, out: Path, seed: int, index: int, size: int) -> SoundingRoom:
        """Write ``videos/<name>.mp4``; its first frames are those of the 3d world."""
        room = add_sound(sample_scene(seed, index, _FRAMES), seed)
        path = out / "videos" / f"{room.scene.name}.mp4"
        write_video(path, render_scene(room.scene, size).colour, _FPS, waveform(room))
        return room

    def annotate(self, out: Path, split: Split, facts: Sequence[SoundingRoom]) -> None:
        """Write ``avsd/``, ``avqa/``, ``music_avqa/`` and ``avut/``."""
        write_annotations(out, facts, split)

    def draw(self, facts: Sequence[SoundingRoom], out: Path, path: Path, size: int) -> None:
        """Draw a frame and the log-mel picture of some clips, with a question each."""
        from matplotlib.figure import Figure

        # Where all objects have the same shape, one can only count.
        shown = [room for room in facts if len(room.shapes) > 1][: _ROWS * _COLUMNS]
        figure = Figure(figsize=(_COLUMNS * 4.2, _ROWS * 1.9), layout="constrained")
        axes = figure.subplots(_ROWS, 2 * _COLUMNS, squeeze=False, width_ratios=[1, 2] * _COLUMNS)
        for axis in axes.flat:
            axis.axis("off")
        for number, room in enumerate(shown):
            row, column = divmod(number, _COLUMNS)
            left, right = axes[row, 2 * column : 2 * column + 2]
            recording = read_video(
                out / "videos" / f"{room.scene.name}.mp4", [Request(Uniform(1))], sound=True
            )
            assert recording.sound is not None
            left.imshow(recording.streams[0].pixels[0].permute(1, 2, 0).numpy())
            (picture,) = log_mel(recording.sound.waveform, [DURATION_S / 2], DURATION_S)
            right.imshow(picture.permute(1, 2, 0).numpy(), aspect="auto")
            asked = heard_questions(room)
            shown_question = asked[7 * number % len(asked)]  # another kind in every room
            right.set_title(f"{fill(shown_question.text, 50)}\n{shown_question.answer}", fontsize=7)
        figure.suptitle("Toy world with sound: a frame, and the log-mel picture of 4 s")
        figure.savefig(path, dpi=110, format="png")
