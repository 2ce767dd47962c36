"""Thermal video as a modality: temperatures in Turbo colours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.media.images import DAMAGE
from datamodules.modalities.files import FileModality
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import BadSample
from datamodules.signals.turbo import turbo_table
from vlynx_pl.io.errors import PARSE_ERRORS


@dataclass(frozen=True, kw_only=True)
class Thermal(FileModality):
    """Radiometric TIFF: a page of 16-bit centikelvin for every image of the camera.

    The colours span ``coldest`` to ``hottest``, in °C.
    """

    name, pattern = "thermal", "*.tiff"
    coldest: float = 0.0
    hottest: float = 60.0

    def render(self, path: Path, spec: FrameSpec) -> Tensor:
        """Return evenly spaced pages, uint8 (T, 3, h, w); raises BadSample."""
        try:
            with Image.open(path, formats=["TIFF"]) as file:
                pages, size = [], file.size
                last = file.n_frames - 1  # type: ignore[attr-defined]
                for page in np.linspace(0, last, spec.frames).astype(int):
                    file.seek(page)
                    if file.size != size:
                        raise ValueError("its pages differ in size")
                    pages.append(np.array(file))
                stored = np.stack(pages)  # (T, h, w)
        except (*DAMAGE, *PARSE_ERRORS) as error:
            raise BadSample(path, f"cannot be decoded ({error})", "Export it again") from error
        if stored.dtype.str[1:] != "u2" or np.median(stored) < 17_315:
            reason = "does not hold temperatures above -100 °C in 16-bit centikelvin"
            raise BadSample(path, reason, "Export radiometric data, not pictures")
        index = np.interp(stored / 100 - 273.15, (self.coldest, self.hottest), (0, 255))
        return turbo_table()[torch.from_numpy(index).long()].movedim(-1, 1)
