"""The first step checks that everything that is trained receives a gradient."""

import pytest
import torch
from torch.utils.data import DataLoader

from tests.conftest import quiet_trainer
from tests.vlynx_pl.conftest import episode, tuning
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.objectives import AlignmentObjective, PaperObjective, ReleasedObjective
from vlynx_pl.streams import AlignedStreams

SMALL = Lora(2, 4)


def fit(module, batch, **options):
    module.transfer_batch_to_device = lambda batch, *_: batch  # as the data modules do
    loader = DataLoader([batch] * 2, batch_size=None)
    quiet_trainer(None, max_steps=2, **options).fit(module, loader)


def alignment(backbone, videos, objective=None, lora=SMALL, **settings):
    module = InterfaceAlignment(backbone, "3d", objective, lora, **settings)
    module.use_guidance(estimate_guidance(backbone, [videos]))
    module.use_attention_floor(torch.full((4,), 1e6))
    return module


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": AlignmentObjective(attn_weight=0.0)},
        {"objective": AlignmentObjective(stat_weight=0.0, attn_floor=True)},
        {"objective": PaperObjective()},
        {"objective": ReleasedObjective(), "frame_chunk": 2},
        {"lora": Lora(2, 4, use_dora=True)},
    ],
)
def test_an_alignment_without_faults_is_not_stopped(settings, backbone, videos):
    module = alignment(backbone, videos, **settings)
    fit(module, {"frames": videos, "clips": ["a", "b"]}, accumulate_grad_batches=2)


def test_an_empty_part_of_a_batch_is_not_stopped(backbone, videos):
    fit(alignment(backbone, videos), {"frames": videos[:0], "clips": []})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "streams": AlignedStreams(
                {"3d": "base", "audio": "base"}, keep={"audio": 1}, reduce={"audio": "pool"}
            )
        },
        {"streams": AlignedStreams({"3d": "base", "audio": "base"}, train_vision=True)},
        {"streams": PatchedVideo("3d", hidden=8, heads=2)},
        {"streams": PatchedVideo("3d", hidden=8, heads=2, tied=False), "checkpointing": True},
        {"lora": Lora(2, 4, use_dora=True)},
    ],
)
@pytest.mark.parametrize("clips", [0, 1])
def test_tuning_without_faults_is_not_stopped(settings, clips, fresh, videos):
    fit(tuning(backbone=fresh, **settings), [episode(videos, "3d", "audio")] * clips)


def test_an_adapter_whose_output_the_backbone_does_not_read_stops_the_run(backbone, videos):
    backbone.model.config.vision_feature_layer = -2
    module = alignment(backbone, videos)
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    with pytest.raises(UserError) as stopped:
        fit(module, {"frames": videos, "clips": ["a", "b"]})
    said = str(stopped.value)
    assert said.startswith(f"4 of {len(before)} trained tensors received no gradient")
    assert "encoder.layers.3.mlp.fc1.lora_A.3d.weight" in said and "and 1 more" in said
    assert "vision_feature_layer" in said and "layers.2" not in said
    assert all(torch.equal(module.get_parameter(name), then) for name, then in before.items())


def test_a_stream_that_is_read_without_gradients_stops_the_run(fresh, videos):
    class Detached(AlignedStreams):
        def tokens(self, encoded, episode):
            detached = {name: tokens.detach() for name, tokens in encoded.items()}
            return super().tokens(detached, episode)

    module = tuning(Detached({"3d": "base"}, train_vision=True, lora=SMALL), fresh)
    with pytest.raises(UserError, match=r"of \d+ trained tensors .* model.streams ignores"):
        fit(module, [episode(videos, "3d")])
