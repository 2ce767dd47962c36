"""The data module of high frame rate."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.base import ModalityDataModule
from datamodules.modalities.high_frame_rate import HighFrameRate
from datamodules.modalities.modality import Modality


@dataclass(eq=False, repr=False, kw_only=True)
class HighFrameRateDataModule(ModalityDataModule):
    """Fast frames of videos for alignment and tuning: the modality ``HighFrameRate``.

    Args:
        fps: RGB frames per second, but no more than ``frames``; without it, always ``frames``,
            which counts tiled frames, of four fast ones each.
    """

    modalities: Sequence[Modality | str] = field(init=False)
    fps: float | None = None

    def __post_init__(self) -> None:
        """Make the modality of the settings."""
        self.modalities = [HighFrameRate(fps=self.fps)]
        super().__post_init__()
