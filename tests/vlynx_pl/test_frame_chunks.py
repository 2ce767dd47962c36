"""Frame chunks change memory, and neither losses nor gradients."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from tests.conftest import MINIATURE
from tests.processes import meet, together
from tests.vlynx_pl.conftest import episode
from vlynx_pl import adapter_training
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.frame_chunks import in_chunks, joined
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.io.errors import UserError
from vlynx_pl.memory import TensorBytes
from vlynx_pl.objectives import AlignmentObjective
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

LORA = Lora(8, 16, 0.0)


def aligning(backbone, videos, frame_chunk, **settings) -> InterfaceAlignment:
    module = InterfaceAlignment(
        backbone, "3d", AlignmentObjective(**settings), lora=LORA, frame_chunk=frame_chunk
    )
    module.use_guidance(estimate_guidance(backbone, [videos]))
    module.use_attention_floor(torch.full((len(backbone.attention_layers()),), 0.1))
    return module


def gradients(module, loss) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.requires_grad}


def randomise(module) -> None:
    """Replace the zeros that LoRA starts with, through which no gradient flows."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.05, generator=generator)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("floor", [False, True])
@pytest.mark.parametrize("size", [1, 4])
def test_alignment_in_chunks_gives_the_same_gradients(backbone, videos, scale, floor, size):
    module = aligning(backbone, videos, None, stat_scale=scale, attn_floor=floor)
    randomise(module)
    whole = module.losses(255 - videos)
    wanted = gradients(module, whole["total"])
    backbone.frame_chunk = size
    chunked = module.losses(255 - videos)
    assert_close(chunked, whole)
    assert_close(gradients(module, chunked["total"]), wanted, rtol=1e-5, atol=1e-6)


def gradients_of_a_rank(rank, meeting, videos):
    meet(rank, 2, meeting)
    own, backbone = videos[rank : rank + 1], load_backbone(str(MINIATURE), "float32")
    module = aligning(backbone, videos, None, attn_floor=True)
    randomise(module)
    whole = gradients(module, module.losses(255 - own)["total"])
    backbone.frame_chunk = 2
    chunked = gradients(module, module.losses(255 - own)["total"])
    assert_close(chunked, whole, rtol=1e-5, atol=1e-6)


def test_alignment_in_chunks_is_the_same_on_two_ranks(videos, tmp_path):
    assert together(gradients_of_a_rank, 2, tmp_path / "meeting", videos) == [0, 0]


def test_training_vision_and_the_llm_in_chunks_gives_the_same_gradients(backbone, videos):
    streams = AlignedStreams({"3d": "base"}, train_vision=True, lora=LORA)
    module = InstructionTuning(backbone, "toy", streams, lora=LORA, frame_chunk=None)
    randomise(module)
    one = episode(videos, "3d")
    wanted = gradients(module, module.losses(one).sum())
    backbone.frame_chunk = 2
    assert_close(gradients(module, module.losses(one).sum()), wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_guidance_and_features_are_the_same_in_chunks(backbone, videos):
    whole, features = estimate_guidance(backbone, [videos]), backbone.features(videos)
    backbone.frame_chunk = 4
    chunked = estimate_guidance(backbone, [videos])
    for name in ("keys", "values", "token_mean", "token_var"):
        assert_close(getattr(chunked, name), getattr(whole, name))
    assert_close(backbone.features(videos), features)


def test_autograd_keeps_only_what_chunks_return(backbone, videos):
    backbone.add_vision_adapter("3d", LORA)

    def kept(frames, size) -> int:
        backbone.frame_chunk = size
        with TensorBytes(backbone) as tensors:
            before = tensors.held
            _tokens = backbone.encode(frames, "3d")
            return tensors.held - before

    one = kept(videos[:1, :1], None)
    assert kept(videos, None) > 5 * one
    assert kept(videos, 2) < one


def test_no_chunk_is_larger_than_asked_for(videos):
    seen = []

    def encode(frames):
        seen.append(tuple(frames.shape[:2]))
        return (frames.float().mean((-1, -2)),)

    for size in (None, 6, 4):
        found = joined([part for (part,) in in_chunks(encode, videos, size)], videos)
        assert_close(found, videos.float().mean((-1, -2)))
    assert seen == [(2, 3), (2, 3), (1, 4), (1, 2)]


def test_without_gradients_chunks_are_always_small(backbone, monkeypatch):
    monkeypatch.setattr("vlynx_pl.backbones.base._PATCHES", 3 * math.prod(backbone.patch_grid))
    assert backbone.frames_at_once is None
    with torch.no_grad():
        assert backbone.frames_at_once == 3
        backbone.frame_chunk = 2
        assert backbone.frames_at_once == 2


@pytest.mark.parametrize("frame_chunk", [0, -3])
def test_a_chunk_without_frames_is_refused(backbone, frame_chunk):
    with pytest.raises(UserError, match=rf"frame_chunk={frame_chunk} .*auto, or null"):
        InterfaceAlignment(backbone, "3d", frame_chunk=frame_chunk)


@pytest.fixture
def step(backbone, videos, monkeypatch, capsys):
    """Start the first training step with memory for some frames; return its chunk and message."""
    module = aligning(backbone, videos, "auto")
    plugin = SimpleNamespace(forward_context=torch.enable_grad)
    module._trainer = SimpleNamespace(precision_plugin=plugin, current_epoch=0, global_rank=0)
    each = module.kept_bytes(lambda: module.encode_one(videos[:1, :1]))
    states = 12 * sum(p.numel() for p in module.parameters() if p.requires_grad)

    def begin(frames) -> tuple[int | None, str]:
        free = int(states + 2 * each * frames)
        monkeypatch.setattr(adapter_training, "free_bytes", lambda device: free)
        module.on_train_batch_start({"frames": videos}, 0)
        return backbone.frame_chunk, capsys.readouterr().err

    return begin


def test_a_batch_that_fits_is_not_divided(step):
    assert step(6.1) == (None, "")


def test_a_batch_that_does_not_fit_is_divided_into_chunks_that_do(step):
    chunk, said = step(4.2)
    assert chunk == 4 and "4 of the batch's 6 frames" in said and "model.frame_chunk" in said
    assert step(6.1)[0] == 4  # later steps keep it


def test_a_frame_that_does_not_fit_is_refused(step):
    with pytest.raises(UserError, match=r"one frame keeps .* GiB"):
        step(0.9)
