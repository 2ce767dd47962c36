"""The data module of sound."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.base import ModalityDataModule
from datamodules.modalities.audio import Audio
from datamodules.modalities.modality import Modality
from datamodules.signals.log_mel import Scale


@dataclass(eq=False, repr=False, kw_only=True)
class AudioDataModule(ModalityDataModule):
    """Sound of videos for alignment and tuning: the modality ``Audio``.

    Args:
        fps: RGB frames per second, but no more than ``frames``; without it, always ``frames``.
        window: length of a spectrogram in s; there is one for each of the ``frames``.
        scale: ``fixed`` keeps loud and quiet apart; ``min-max`` is the released way.
        allow_silence: take silent tracks as they are, instead of as bad samples.
    """

    modalities: Sequence[Modality | str] = field(init=False)
    fps: float | None = None
    window: float = 2.0
    scale: Scale = "fixed"
    allow_silence: bool = False

    def __post_init__(self) -> None:
        """Make the modality of the settings."""
        self.modalities = [
            Audio(
                fps=self.fps,
                window=self.window,
                scale=self.scale,
                allow_silence=self.allow_silence,
            )
        ]
        super().__post_init__()
