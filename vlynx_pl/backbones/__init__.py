"""Frozen Video LLMs behind one face; the family is chosen by ``config.model_type``."""

from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.loading import BackboneError, load_backbone

__all__ = ["BackboneError", "VideoBackbone", "load_backbone"]
