"""Procedural worlds, one per modality, whose questions require that modality; no download."""

from experiments.toyworld.generate import generate_toyworld
from experiments.toyworld.render import render_scene
from experiments.toyworld.scene import sample_scene

__all__ = ["generate_toyworld", "render_scene", "sample_scene"]
