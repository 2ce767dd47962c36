"""Draw the gallery of modalities: python docs/images/gallery.py writes docs/images/gallery.png."""

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from datamodules.media.sampling import Uniform
from datamodules.modalities.modality import FrameSpec
from datamodules.modalities.video import VideoSource, read_rgb
from experiments.toyworld.sensed_rooms import SENSED

SEED, INDEX = 0, 0
SPEC = FrameSpec(4, (64, 64))  # slow enough to miss every blink
LABELS = {"thermal": "thermal\nvideo", "events": "event\ncamera", "imu": "IMU"}


def main() -> None:
    """One toy room: its video, and below it what each sensor recorded."""
    rows = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        for world, sensed in SENSED.items():
            clip = sensed.make(folder, SEED, INDEX)
            [recording] = folder.glob(sensed.modality.pattern)
            rows[LABELS[world]] = sensed.modality.render(recording, SPEC)
        video = VideoSource(clip.name, folder / "videos" / f"{clip.name}.mp4")
        rows = {"RGB\nvideo": read_rgb(video, Uniform(SPEC.frames), SPEC.size)} | rows
    figure, axes = plt.subplots(len(rows), SPEC.frames, figsize=(6.4, 5.9), layout="constrained")
    for row, (label, frames) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
        for axis, frame in zip(row, frames, strict=True):
            axis.imshow(frame.permute(1, 2, 0), aspect="equal")
            axis.set(xticks=[], yticks=[])
    figure.savefig(Path(__file__).with_name("gallery.png"), dpi=110)


if __name__ == "__main__":
    main()
