"""Pure functions from signals to frames: tensors in, uint8 (..., 3, H, W) out."""

from datamodules.signals.disparity import disparity
from datamodules.signals.log_mel import log_mel
from datamodules.signals.normals import normals
from datamodules.signals.tiling import tiling
from datamodules.signals.views import views

__all__ = ["disparity", "log_mel", "normals", "tiling", "views"]
