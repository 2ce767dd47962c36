"""From files to frames: modalities, and one LightningDataModule over them.

They are loaded on first use, since the processes that make a toy world do not need Lightning.
"""

from importlib import import_module
from typing import Any, Final

_HOMES: Final = {
    "Audio": "modalities.audio",
    "AudioDataModule": "audio",
    "Depth": "modalities.depth",
    "DepthDataModule": "depth",
    "Ego": "modalities.ego",
    "EgoDataModule": "ego",
    "HighFrameRate": "modalities.high_frame_rate",
    "HighFrameRateDataModule": "high_frame_rate",
    "Modality": "modalities.modality",
    "ModalityDataModule": "base",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"datamodules has no {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(f"datamodules.{_HOMES[name]}"), name)
