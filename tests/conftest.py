"""Fixtures for all tests: the shipped miniature backbone, never a download."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint

from vlynx_pl.backbones import VideoBackbone, load_backbone
from vlynx_pl.commands import cli
from vlynx_pl.metrics import captions

torch.set_num_threads(1)
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
REPOSITORY = Path(__file__).parents[1]
MINIATURE = REPOSITORY / "experiments" / "miniature"
CONFIGS = [
    "--config=experiments/backbones/miniature.yaml",
    "--config=experiments/align/3d.yaml",
    "--config=experiments/align/backbones/miniature.yaml",
]


@pytest.fixture(scope="session")
def loaded() -> VideoBackbone:
    return load_backbone(str(MINIATURE), "float32")


def replace_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes ten seconds to start."""
    monkeypatch.setattr(captions, "meteor", lambda said, wanted: 0.5)


@pytest.fixture
def quick_meteor(monkeypatch) -> None:
    replace_meteor(monkeypatch)


@pytest.fixture
def backbone(loaded) -> VideoBackbone:
    """The miniature without adapters, in float32; each test gets its own copy."""
    return copy.deepcopy(loaded)


def quiet_trainer(folder: Path, *callbacks: Callback, **options) -> Trainer:
    """A trainer on the CPU that prints nothing and writes what its callbacks write."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(
        **{
            "accelerator": "cpu",
            "default_root_dir": folder,
            "callbacks": list(callbacks),
            "enable_checkpointing": any(isinstance(one, Checkpoint) for one in callbacks),
            "num_sanity_val_steps": 0,
            **quiet,
            **options,
        }
    )


@pytest.fixture
def videos() -> torch.Tensor:
    """Two videos of three noise frames, uint8 (2, 3, 3, 64, 64)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=generator)


@pytest.fixture
def vlynx(monkeypatch, capsys):
    """A function that runs the command line here: arguments → exit code, output and errors."""
    monkeypatch.chdir(REPOSITORY)

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vlynx", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run
