"""The data module for audio."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from datamodules.base import ModalityDataModule
from datamodules.modalities.audio import Audio
from datamodules.modalities.modality import Modality
from datamodules.signals.log_mel import Scale


@dataclass(eq=False, repr=False, kw_only=True)
class AudioDataModule(ModalityDataModule):
    """The sound of videos for alignment and tuning: the modality ``Audio``.

    Args:
        fps: RGB frames per second, up to ``frames``; by default there are always ``frames``.
        window: length of a spectrogram in s; there is one for each of the ``frames``.
        scale: ``fixed`` distinguishes loud from quiet; ``min-max`` is that of the released code.
        allow_silence: accept silent tracks instead of treating them as bad samples.
    """

    kind: ClassVar[type[Modality]] = Audio
    modalities: Sequence[Modality | str] = field(init=False)
    fps: float | None = None
    window: float = 2.0
    scale: Scale = "fixed"
    allow_silence: bool = False
