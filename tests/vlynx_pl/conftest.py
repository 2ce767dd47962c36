"""Small stages to train: episodes, fresh backbones, and folders of what was trained."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close

from experiments.toyworld.video_files import write_video
from tests.conftest import MINIATURE
from vlynx_pl.adapters import Lora, adapter_parameters, save_adapter
from vlynx_pl.backbones import load_backbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.branch_attention import visible
from vlynx_pl.prefix_sharing import Branch, question_losses
from vlynx_pl.questions import Question
from vlynx_pl.tuning import InstructionTuning

LLM = {"lora": Lora(4, 8, 0.0)}


def load_miniature(dtype="float32"):
    return load_backbone(str(MINIATURE), dtype)


def episode(videos, *streams: str, answers=("red", "box")):
    """One clip of three frames; every stream beside the video is its negative."""
    frames = {"video": videos[0]} | dict.fromkeys(streams, 255 - videos[0])
    questions = tuple(Question(f"q{i}", "What colour is it?", (a,)) for i, a in enumerate(answers))
    times = dict.fromkeys(frames, (0.0, 1.0, 2.0))
    return {
        "name": "clip",
        "key": "clip",
        "streams": frames,
        "times": times,
        "questions": questions,
    }


def tuning(streams=None, backbone=None, **settings):
    """InstructionTuning of the task "qa" on a fresh miniature."""
    return InstructionTuning(backbone or load_miniature(), "qa", streams, **LLM | settings)


def saved(module: InstructionTuning, folder) -> str:
    """Save everything that a module trains as a run does; return the LLM adapter's folder."""
    made_with = {"fingerprint": module.backbone.fingerprint, **module.adapter_metadata()}
    module.save_adapters(folder, json.loads(json.dumps(made_with)))
    return str(folder / "llm-qa")


def perturbed(module):
    """The same module with noise added to everything that it trains."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def randomise(wrapper, name, std):
    """Give every tensor of an adapter random values."""
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter_parameters(wrapper, name).values():
        parameter.data.normal_(std=std, generator=generator)


def branch_gradients(backbone, lengths, mask=None):
    """Losses of random questions of these lengths, and gradients of an adapter and of a stream.

    ``mask`` makes the mask from owners (L,), instead of the choice by device.
    """
    device = backbone.device
    torch.manual_seed(0)
    stream = torch.randn(4, 16, backbone.hidden_size).to(device).requires_grad_()
    branches = [
        Branch(str(k), torch.randint(5, 400, (length,)).tolist(), [i > 2 for i in range(length)])
        for k, length in enumerate(lengths)
    ]
    with pytest.MonkeyPatch.context() as patch:
        if mask is not None:
            chosen = lambda owners, device: mask(torch.tensor(owners, device=device))  # noqa: E731
            patch.setattr("vlynx_pl.prefix_sharing.branch_mask", chosen)
        losses = question_losses(backbone, backbone.prompt([Stream(stream)]), branches, "task")
    learnt = [*adapter_parameters(backbone.llm_adapters, "task").values(), stream]
    return losses, torch.autograd.grad(losses.mean(), learnt)


def dense(owners):
    return visible(owners, len(owners))


def assert_equal_gradients(found, wanted, tolerance=1e-5):
    assert_close(found[0], wanted[0], atol=tolerance, rtol=tolerance)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        assert theirs.abs().max() > 1e-4, "a gradient of zero would show nothing"
        assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def config_of(data: str, *modalities: str, **settings: object) -> dict:
    """The configuration of a tuned run whose modalities are read by the untouched base."""
    benchmark = {"class_path": "gone.Benchmark", "init_args": {"annotations": "gone"}}
    common = {"root": "gone", "objective": "tuning", "benchmark": benchmark, "frames": 3}
    streams = {
        "class_path": "vlynx_pl.streams.AlignedStreams",
        "init_args": {"modalities": dict.fromkeys(modalities, "base")},
    }
    model = {"task": "qa", "streams": streams}
    backbone = {"path": str(MINIATURE), "dtype": "float32"}
    return {
        "backbone": {"class_path": "vlynx_pl.backbones.load_backbone", "init_args": backbone},
        "model": {"class_path": "vlynx_pl.tuning.InstructionTuning", "init_args": model},
        "data": {"class_path": f"datamodules.{data}", "init_args": common | settings},
    }


@pytest.fixture(scope="module")
def untaught(tmp_path_factory) -> Path:
    """The folder of an LLM adapter that does nothing."""
    folder = tmp_path_factory.mktemp("adapters") / "llm-qa"
    backbone = load_miniature()
    backbone.add_llm_adapter("qa", Lora(4, 16))
    save_adapter(backbone.llm_adapters, "qa", folder)
    return folder


def write_run(folder: Path, adapter: Path, data: str, *modalities: str, **settings: object) -> Path:
    """Write a tuned run without fitting: its LLM adapter, and the configuration of its data."""
    shutil.copytree(adapter, folder / "adapters" / "llm-qa")
    config = config_of(data, *modalities, **settings)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def film(path: Path, seconds: float = 2, sound: bool = True, level: int = 0) -> Path:
    """Frame i has grey level ``level + 7 i``, eight a second; its sound rises."""
    frames = np.full((int(8 * seconds), 32, 48, 3), level, np.uint8)
    frames += 7 * np.arange(len(frames), dtype=np.uint8)[:, None, None, None]
    time = np.arange(int(16_000 * seconds)) / 16_000
    wave = np.sin((300 + level) * 2 * np.pi * time * (1 + time)).astype(np.float32) / 4
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, frames, 8, wave if sound else None)
    return path


@pytest.fixture
def tuned(backbone):
    """The miniature with an LLM adapter that is not zero."""
    backbone.add_llm_adapter("task", Lora(8, 16, 0.0))
    randomise(backbone.llm_adapters, "task", 0.05)
    return backbone


@pytest.fixture
def fresh():
    return load_miniature()
