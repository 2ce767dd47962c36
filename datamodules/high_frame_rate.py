"""The data module for high frame rate."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from datamodules.base import ModalityDataModule
from datamodules.modalities.high_frame_rate import HighFrameRate
from datamodules.modalities.modality import Modality


@dataclass(eq=False, repr=False, kw_only=True)
class HighFrameRateDataModule(ModalityDataModule):
    """Videos at four times the frame rate, for alignment and tuning: ``HighFrameRate``.

    Args:
        fps: RGB frames per second, up to ``frames``; by default there are always ``frames``. A
            tiled frame shows four fast ones and counts as one.
    """

    kind: ClassVar[type[Modality]] = HighFrameRate
    modalities: Sequence[Modality | str] = field(init=False)
    fps: float | None = None
