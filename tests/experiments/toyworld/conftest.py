"""Rendered toy rooms."""

import pytest

from experiments.toyworld import render_scene, sample_scene
from experiments.toyworld.render import Rendered
from experiments.toyworld.scene import Scene


@pytest.fixture(scope="session")
def rooms() -> list[tuple[Scene, Rendered]]:
    return [(scene, render_scene(scene)) for scene in (sample_scene(5, i) for i in range(60))]
