"""From files to frames: one LightningDataModule a modality."""

from datamodules.base import ModalityDataModule
from datamodules.depth import DepthDataModule

__all__ = ["DepthDataModule", "ModalityDataModule"]
