"""From files to frames: one LightningDataModule a modality.

Loaded when they are asked for: the processes that make a toy world need none of Lightning.
"""

from importlib import import_module
from typing import Any, Final

_HOMES: Final = {
    "AudioDataModule": "audio",
    "DepthDataModule": "depth",
    "EgoDataModule": "ego",
    "FastLook": "high_frame_rate",
    "Hearing": "audio",
    "HighFrameRateDataModule": "high_frame_rate",
    "ModalityDataModule": "base",
    "SeveralDataModule": "several",
    "VideoDataModule": "video",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"datamodules has no {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(f"datamodules.{_HOMES[name]}"), name)
