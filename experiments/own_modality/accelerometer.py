"""A custom modality: an accelerometer trace as frames of its spectrum."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from datamodules.media.files import find_media
from datamodules.media.sampling import Uniform
from datamodules.modalities.modality import Modality
from datamodules.modalities.video import VideoSource, read_rgb
from datamodules.samples import BadSample, Clip
from datamodules.splits import hold_out


class Accelerometer(Modality):
    """Files ``*.csv`` with rows ``x,y,z`` in m/s²; the videos are in ``reference_root``."""

    name = "accelerometer"

    def find(self, root):
        traces = [(path.stem, path) for path in sorted(root.glob("*.csv"))]
        found = traces or find_media(root)  # the reference root holds videos
        train, val = hold_out([VideoSource(name, path) for name, path in found])
        return {"train": train, "val": val}

    def clips(self, source, spec):
        return [Clip(source.name, partial(render, source.path), (source.path,))]

    def reference_clips(self, source, spec):
        read = partial(read_rgb, source, Uniform(spec.frames), spec.size)
        return [Clip(source.name, read, (source.path,))]


def render(path: Path) -> torch.Tensor:
    """Render the spectra of x, y and z as red, green and blue, uint8 (1, 3, 33, columns)."""
    try:
        trace = torch.from_numpy(np.loadtxt(path, np.float32, delimiter=",", ndmin=2))  # (N, 3)
    except ValueError as error:
        raise BadSample(path, f"is not a table of numbers ({error})", "Record it again") from error
    if len(trace) < 64 or trace.shape[1] != 3:
        raise BadSample(path, "is not a trace of 64 or more rows x,y,z", "Record it again")
    window = torch.hann_window(64)
    power = torch.stft(trace.T, 64, 16, window=window, return_complex=True).abs() ** 2
    decades = (power + 1e-4).log10()  # (3, 33, columns), -4 … 4
    return ((decades + 4) / 8 * 255).clamp(0, 255).to(torch.uint8).flip(1)[None]
