"""Frozen Video LLMs behind one interface; ``config.model_type`` selects the family."""

from vlynx_pl.backbones.base import BackboneError, VideoBackbone
from vlynx_pl.backbones.loading import backbone_without_weights, load_backbone

__all__ = ["BackboneError", "VideoBackbone", "backbone_without_weights", "load_backbone"]
