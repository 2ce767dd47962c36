"""Tiny models of every family, written once and loaded once for each frame size."""

import copy
from functools import cache
from pathlib import Path

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
    "smolvlm": ("smolvlm", None),
}
"""Case → family, and the height and width of frames."""


def pytest_addoption(parser):
    what = "folder of a small model, to be tested instead of the tiny ones"
    parser.getgroup("families").addoption("--model", type=Path, help=what)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        given = metafunc.config.getoption("--model", None)
        cases = {"given": (given, None)} if given else CASES
        metafunc.parametrize("case", cases.values(), ids=list(cases))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A function that returns the folder of a family's tiny model, or the one of ``--model``."""
    root = tmp_path_factory.mktemp("tiny")

    @cache
    def folder(family):
        if isinstance(family, Path):
            return family
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


@pytest.fixture
def backbone(load, case):
    return load(*case)


@pytest.fixture
def videos(backbone):
    """Two videos of three noise frames of the backbone's size, uint8 (2, 3, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 3, *backbone.frame_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
