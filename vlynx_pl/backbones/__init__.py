"""Frozen Video LLMs behind one interface; ``config.model_type`` selects the family."""

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.loading import BackboneError, backbone_without_weights, load_backbone

__all__ = ["BackboneError", "VideoBackbone", "backbone_without_weights", "load_backbone"]
