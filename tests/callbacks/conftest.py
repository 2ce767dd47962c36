"""Data for the tests of callbacks."""

from pathlib import Path

import pytest

from tests.datamodules.conftest import write_scannet_scene, write_scanqa


@pytest.fixture
def data(tmp_path) -> Path:
    """Three scenes with annotations of ScanQA; the test split also names a missing scene."""
    root = tmp_path / "data"
    for number in range(3):
        write_scannet_scene(root / "scans" / f"scene000{number}_00", range(4))
    for split, scenes in (("train", "01"), ("val", "2"), ("test_w_obj", "29")):
        questions = [
            (int(scene), f"{split}-{scene}-{i}", f"What colour is the {thing}?")
            for scene in scenes
            for i, thing in enumerate(("wall", "floor"))
        ]
        write_scanqa(root, split, questions)
    return root


@pytest.fixture
def scanqa(data, quick_meteor) -> list[str]:
    """Options with which the miniature is tuned on these questions, with unaligned depth."""
    return [
        "--config=experiments/backbones/miniature.yaml",
        "--config=experiments/tune/scanqa.yaml",
        "--config=experiments/tune/backbones/miniature.yaml",
        "--config=experiments/tune/toyworld/scanqa.yaml",
        f"--data.root={data}",
        f"--data.benchmark.init_args.annotations={data}",
        "--data.num_workers=0",
        "--model.streams.modalities={3d: base}",
        "--trainer.logger=false",
    ]
