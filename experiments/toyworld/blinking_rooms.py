"""The highfps world: objects blink too briefly for the four or eight frames of a slow sampling."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copyfile
from textwrap import fill
from typing import TYPE_CHECKING

from datamodules.media.sampling import Uniform
from datamodules.media.video import Request, read_video
from datamodules.samples import Split
from datamodules.signals.tiling import tiling
from experiments.toyworld.blink_annotations import annotation_files, video_paths
from experiments.toyworld.blink_questions import KINDS, blink_questions
from experiments.toyworld.blinks import FPS, BlinkClip, render_clip, sample_clip
from experiments.toyworld.contact_sheet import show
from experiments.toyworld.files import write_json
from experiments.toyworld.render import SIZE
from experiments.toyworld.video_files import write_video

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLOW = 4  # frames; the fast stream has four times as many, four per tiled frame
_SHOWN = 6


def make(out: Path, seed: int, index: int) -> BlinkClip:
    """Write ``videos/<name>.mp4``."""
    clip = sample_clip(seed, index)
    write_video(_video(out, clip), render_clip(clip), FPS)
    return clip


def annotate(out: Path, splits: Mapping[Split, Sequence[BlinkClip]]) -> None:
    """Write ``llava_video/`` (train), ``mvbench/`` (val), ``videomme/`` and ``mlvu/`` (test).

    MVBench and MLVU get copies of their videos in the folders where their readers expect them.
    """
    for split, clips in splits.items():
        files = annotation_files(clips, split)
        write_json(out, files)
        for path in video_paths(files):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            copyfile(out / "videos" / Path(path).name, out / path)


def draw(figure: "Figure", out: Path, facts: Sequence[BlinkClip]) -> None:
    """Draw what the slow and the fast stream show of some clips."""
    shown = [clip for clip in facts if len(clip.blinks) > 1][:_SHOWN]
    rows = -(-len(shown) // 2)
    figure.set_size_inches(12, 3.1 * rows)
    blocks = figure.subfigures(rows, 2, squeeze=False).flat
    for number, (block, clip) in enumerate(zip(blocks, shown, strict=False)):
        requests = [Request(Uniform(_SLOW)), Request(Uniform(4 * _SLOW))]
        slow, fast = read_video(_video(out, clip), requests).streams
        streams = {"slow": slow.pixels, "fast": tiling(fast.pixels, (SIZE, SIZE))}
        axes = block.subplots(2, _SLOW)
        for row, (label, frames) in zip(axes, streams.items(), strict=True):
            row[0].set_ylabel(label)
            for axis, frame in zip(row, frames, strict=True):
                show(axis, frame)
                axis.set(xticks=[], yticks=[])
        kinds = {question.kind: question for question in blink_questions(clip)}
        asked = [kinds[kind] for kind in KINDS if kind in kinds]
        question = asked[(number + 1) % len(asked)]  # another kind in every clip
        block.suptitle(fill(f"{question.text}  {question.answer}", 70), fontsize=9)
    figure.suptitle("Toy world highfps: 4 frames, and 16 frames in tiles of four")


def _video(out: Path, clip: BlinkClip) -> Path:
    return out / "videos" / f"{clip.name}.mp4"
