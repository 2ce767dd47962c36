"""Instance labels of a scene's colour frames: which object each pixel shows.

They are in ScanNet's layout, ``<scene>/instance-filt/<i>.png`` beside ``<scene>/color/<i>.jpg``,
with 1 + the object's id at each pixel, and 0 where there is none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from datamodules.media.images import image_size, read_instances
from datamodules.samples import BadSample

INSTANCES: Final = "instance-filt"
"""Folder of a scene's instance labels."""


def instance_labels(files: Sequence[Path]) -> Tensor | None:
    """Read the labels of the colour frames among files.

    Args:
        files: such as those of an episode's streams; other files are ignored.

    Returns:
        int64 (T, H, W), or None if there are no colour frames or their scene has no labels.

    Raises:
        BadSample: labels are missing for a frame, damaged, or of another size than the frame.
    """
    frames = [path for path in files if path.parent.name == "color"]
    if not frames or not (frames[0].parents[1] / INSTANCES).is_dir():
        return None
    return torch.stack([_labels_of(frame) for frame in frames])


def _labels_of(frame: Path) -> Tensor:
    path = frame.parents[1] / INSTANCES / f"{frame.stem}.png"
    labels = read_instances(path)
    if tuple(labels.shape) != (size := image_size(frame)):
        found, wanted = (f"{width} × {height} pixels" for height, width in (labels.shape, size))
        raise BadSample(
            path,
            f"has {found}, its colour frame {frame} has {wanted}",
            f"Export both at one size, or remove {INSTANCES}/ to do without",
        )
    return labels
