"""Event cameras as a modality: where brightness rose (red) and fell (blue)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.media.tables import read_table
from datamodules.modalities.files import FileModality
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import BadSample


@dataclass(frozen=True, kw_only=True)
class Events(FileModality):
    """Text files with a line ``t x y polarity`` per event, as in the Event-Camera Dataset.

    Times are in s. The sensor has ``height`` × ``width`` pixels; ``full`` events of one pixel in
    one frame have full brightness.
    """

    name, pattern = "events", "*.txt"
    height: int = 180
    width: int = 240
    full: int = 4

    def render(self, path: Path, spec: FrameSpec) -> Tensor:
        """Count the events of equal parts of the time, uint8 (T, 3, height, width)."""
        time, x, y, polarity = read_table(path, "t x y polarity").T
        if x.min() < 0 or y.min() < 0 or x.max() >= self.width or y.max() >= self.height:
            reason = f"has events outside {self.height} × {self.width} pixels"
            raise BadSample(path, reason, "Give the sensor's height and width")
        duration = (time.max() - time.min()).clamp(min=1e-9)
        part = ((time - time.min()) / duration * spec.frames).long().clamp(max=spec.frames - 1)
        shape = (spec.frames, 2, self.height, self.width)
        pixel = ((part * 2 + (polarity <= 0)) * self.height + y.long()) * self.width + x.long()
        counts = torch.bincount(pixel, minlength=torch.Size(shape).numel()).view(shape)
        rose, fell = (255 * counts / self.full).clamp(max=255).to(torch.uint8).unbind(1)
        return torch.stack([rose, torch.zeros_like(rose), fell], 1)
