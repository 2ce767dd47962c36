"""The modality my_signal: what a grid of sensors measured, in gray."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.files import FileModality
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import BadSample


@dataclass(frozen=True, kw_only=True)
class MySignalModality(FileModality):
    """NumPy arrays (time, rows, columns); ``largest`` is the value drawn white."""

    name, pattern = "my_signal", "*.npy"
    largest: float = 1.0

    def render(self, path: Path, spec: FrameSpec) -> Tensor:
        """Return evenly spaced frames, uint8 (T, 3, h, w); raises BadSample."""
        try:
            grids = np.lib.format.open_memmap(path, mode="r")  # unpickles nothing
            times = np.linspace(0, len(grids) - 1, spec.frames).astype(int)
            values = grids[times].astype(np.float32)
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = f"cannot be read ({error})"
            raise BadSample(path, reason, "Write it again") from error
        if values.ndim != 3 or not np.isfinite(values).all():
            reason = f"has shape {grids.shape}, or values that are not finite"
            raise BadSample(path, reason, "Write numbers (time, rows, columns)")
        share = torch.from_numpy(values / self.largest).clamp(0, 1)
        gray = (255 * share).to(torch.uint8)
        return gray[:, None].expand(-1, 3, -1, -1)
