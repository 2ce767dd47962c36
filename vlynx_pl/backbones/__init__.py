"""Frozen Video LLMs behind one interface; ``config.model_type`` selects the family."""

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.loading import BackboneError, load_backbone

__all__ = ["BackboneError", "VideoBackbone", "load_backbone"]
