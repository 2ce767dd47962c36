"""Variants of alignment that may remove what it costs."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningDataModule
from torch.testing import assert_close

from experiments.paper.variants import (
    FlooredObjective,
    GeometryAlignment,
    GeometryObjective,
    NamedStreams,
    StatisticsFloor,
    linear_cka,
)
from tests.conftest import quiet_trainer
from tests.vlynx_pl.conftest import episode, randomise, tuning
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones.prompt import token_ids
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.objectives import AlignmentObjective
from vlynx_pl.streams import AlignedStreams


def test_each_modality_stands_behind_its_name(backbone, videos):
    """The name's tokens are all that the prompt has in addition, and they come after the video."""
    clip = episode(videos, "3d")
    prompts = {}
    for kind in (AlignedStreams, NamedStreams):
        streams = tuning(kind({"3d": "base"})).streams
        with torch.no_grad():
            tokens = streams.tokens(streams.encode(clip), clip)
        prompts[kind] = backbone.prompt(tokens).embeddings
        assert len(prompts[kind]) == backbone.prompt_length(streams.outline(clip))
        break_at = backbone.prompt_length(streams.outline(clip)[:1])
    name = token_ids(backbone.tokenizer, "\n3d:\n")
    plain, named = prompts.values()
    assert_close(named[:break_at], plain[:break_at])
    assert_close(named[break_at : break_at + len(name)], backbone.embed(torch.tensor(name)))
    assert_close(named[break_at + len(name) :], plain[break_at:])


def test_an_adapter_that_was_tuned_with_names_is_not_read_without_them():
    plain, named = (
        tuning(kind({"3d": "base"}, keep={"video": 4})).streams.reads()
        for kind in (AlignedStreams, NamedStreams)
    )
    assert named["3d"] == {**plain["3d"], "label": "\n3d:\n"}
    assert named["video"] == plain["video"], "the video has no name"


@pytest.fixture
def aligning(backbone, videos):
    """A function that makes an alignment with an objective, and its guidance."""

    def make(kind, objective):
        module = kind(copy.deepcopy(backbone), "3d", objective, lora=Lora(8, 16, 0.0))
        module.use_guidance(estimate_guidance(backbone, [videos]))
        return module

    return make


class Videos(LightningDataModule):
    """Eight reference videos of two frames of noise."""

    def reference_names(self):
        return [f"room{index}" for index in range(8)]

    def reference_dataloader(self, positions):
        noise = torch.randint(
            0, 256, (8, 1, 2, 3, 64, 64), generator=torch.Generator().manual_seed(2)
        )
        return [{"frames": noise[position].to(torch.uint8)} for position in positions]


def test_statistics_as_close_as_those_of_video_cost_nothing(aligning, videos, tmp_path):
    module = aligning(InterfaceAlignment, FlooredObjective(stat_weight=0.5))
    trainer = quiet_trainer(tmp_path)
    trainer.datamodule = Videos()
    floors = []
    for frames in (4, 16):
        StatisticsFloor(frames).on_train_start(trainer, module)
        floors.append(module.objective.floor)
    assert floors[0] > floors[1] > 0  # few frames are farther from the mean of all
    plain = aligning(InterfaceAlignment, AlignmentObjective()).losses(255 - videos)["stat"]
    for floor in (0.25 * float(plain), 2 * float(plain)):
        module.objective.floor = floor
        found = module.losses(255 - videos)
        assert_close(found["stat"], (plain - floor).relu())
        assert_close(found["total"], found["attn"] + 0.5 * found["stat"])


def test_geometry_costs_nothing_before_the_first_step_and_more_afterwards(aligning, videos):
    module = aligning(GeometryAlignment, GeometryObjective(geometry_weight=3.0, stat_weight=0.5))
    begun = module.losses(255 - videos)
    assert_close(begun["geometry"], torch.tensor(0.0), atol=1e-5, rtol=0)
    randomise(module.backbone.vision_adapters, "3d", 0.1)
    later = module.losses(255 - videos)
    assert 0.01 < later["geometry"] < 1
    rest = later["attn"] + 0.5 * later["stat"]
    assert_close(later["total"], rest + 3 * later["geometry"])
    later["geometry"].backward()
    moved = module.trained_adapters()["vision-3d"][0].parameters()
    assert any(each.grad is not None and each.grad.abs().sum() > 0 for each in moved)


@given(seed=st.integers(0, 2**16), scale=st.floats(0.01, 100))
def test_cka_is_one_for_rotated_shifted_and_scaled_rows(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, 10, 4, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    assert_close(
        linear_cka(rows, scale * (rows @ rotation) + 3), torch.tensor(1.0), atol=1e-4, rtol=0
    )
    other = torch.randn(2, 10, 5, generator=generator)
    assert 0 <= linear_cka(rows, other) < 1
    assert_close(linear_cka(rows, other), linear_cka(other, rows))
