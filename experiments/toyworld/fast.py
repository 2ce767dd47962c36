"""The world of blinking objects: videos, and questions that four or eight frames cannot answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from textwrap import fill

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from datamodules.signals.tiling import tiling
from experiments.toyworld.blink_questions import KINDS, blink_questions
from experiments.toyworld.blinks import FPS, BlinkClip, render_clip, sample_clip
from experiments.toyworld.fast_annotations import fast_annotations, video_places
from experiments.toyworld.video_files import write_video

_SLOW = 4  # frames; the fast stream has four times as many, four in a picture
_SHOWN = 6


@dataclass(frozen=True)
class BlinkingRooms:
    """Rooms whose objects blink."""

    name: str = "highfps"

    def make(self, out: Path, seed: int, index: int, size: int) -> BlinkClip:
        """Write ``videos/<name>.mp4``."""
        clip = sample_clip(seed, index)
        write_video(_video(out, clip), render_clip(clip, size), FPS)
        return clip

    def annotate(self, out: Path, split: Split, facts: Sequence[BlinkClip]) -> None:
        """Write ``llava_video/`` (train), ``mvbench/`` (val), ``videomme/`` and ``mlvu/`` (test).

        MVBench and MLVU get copies of their videos in the folders where they look for them.
        """
        files = fast_annotations(facts, split)
        for name, content in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(json.dumps(content))
        for place in video_places(files):
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            copyfile(out / "videos" / Path(place).name, out / place)

    def draw(self, facts: Sequence[BlinkClip], out: Path, path: Path, size: int) -> None:
        """Draw what the slow and the fast stream show of some clips."""
        from matplotlib.figure import Figure

        shown = [clip for clip in facts if len(clip.blinks) > 1][:_SHOWN]
        figure = Figure(figsize=(12, 3.1 * -(-len(shown) // 2)), layout="constrained")
        blocks = figure.subfigures(-(-len(shown) // 2), 2, squeeze=False).flat
        for number, (block, clip) in enumerate(zip(blocks, shown, strict=False)):
            requests = [Request(Uniform(_SLOW)), Request(Uniform(4 * _SLOW))]
            slow, fast = read_video(_video(out, clip), requests).streams
            rows = {"slow": slow.pixels, "fast": tiling(fast.pixels, (size, size))}
            axes = block.subplots(2, _SLOW)
            for row, (label, pictures) in zip(axes, rows.items(), strict=True):
                row[0].set_ylabel(label)
                for axis, picture in zip(row, pictures, strict=True):
                    axis.imshow(picture.permute(1, 2, 0).numpy())
                    axis.set(xticks=[], yticks=[])
            kinds = {question.kind: question for question in blink_questions(clip)}
            asked = [kinds[kind] for kind in KINDS if kind in kinds]
            question = asked[(number + 1) % len(asked)]  # another kind in every clip
            block.suptitle(fill(f"{question.text}  {question.answer}", 70), fontsize=9)
        figure.suptitle("Toy world highfps: 4 frames, and 16 frames in tiles of four")
        figure.savefig(path, dpi=110, format="png")


def _video(out: Path, clip: BlinkClip) -> Path:
    return out / "videos" / f"{clip.name}.mp4"
