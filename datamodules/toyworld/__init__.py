"""Procedural worlds, one for each modality, whose questions need that modality; no download."""

from datamodules.toyworld.generate import generate_toyworld
from datamodules.toyworld.render import render_scene
from datamodules.toyworld.scene import sample_scene

__all__ = ["generate_toyworld", "render_scene", "sample_scene"]
