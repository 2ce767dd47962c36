"""Tiny models of every family, written once and loaded once for each frame size."""

import copy
from functools import cache

import pytest
import torch

from vlynx_pl.backbones import load_backbone
from vlynx_pl.backbones.tiny import write_tiny

CASES = {
    "internvl": ("internvl", None),
    "llava_onevision": ("llava_onevision", None),
    "qwen2_5_vl, ragged windows": ("qwen2_5_vl", 40),
    "qwen2_5_vl, whole windows": ("qwen2_5_vl", 48),
    "qwen3_vl": ("qwen3_vl", 40),
}
"""Case → family, and the height and width of frames."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function that returns the folder of a family's tiny model."""
    root = tmp_path_factory.mktemp("tiny")

    @cache
    def folder(family):
        write_tiny(family, root / family)
        return root / family

    return folder


@pytest.fixture(scope="session")
def load(tiny):
    """A function that returns a fresh backbone without adapters, in float32."""

    @cache
    def loaded(family, side):
        return load_backbone(str(tiny(family)), "float32", side=side)

    return lambda family, side=None: copy.deepcopy(loaded(family, side))


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture
def backbone(load, case):
    return load(*case)


@pytest.fixture
def videos(backbone):
    """Two videos of three noise frames of the backbone's size, uint8 (2, 3, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 3, *backbone.frame_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
