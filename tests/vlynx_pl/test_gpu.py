"""The method on a GPU; make test runs none of this without one."""

import pytest
import torch
from torch.testing import assert_close

from tests.conftest import MINIATURE
from tests.vlynx_pl.conftest import (
    assert_equal_gradients,
    branch_gradients,
    dense,
    episode,
    tuning,
)
from vlynx_pl.adapters import Lora
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import load_backbone
from vlynx_pl.guidance import estimate_guidance

pytestmark = pytest.mark.gpu


def test_guidance_is_that_of_the_cpu(backbone, videos):
    on_cpu = estimate_guidance(backbone, [videos])
    on_gpu = estimate_guidance(backbone.cuda(), [videos])
    for name in ("keys", "values", "token_mean", "token_var"):
        wanted, found = getattr(on_cpu, name), getattr(on_gpu, name).cpu()
        assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_a_step_in_bfloat16_trains_float32_adapters(videos):
    backbone = load_backbone(str(MINIATURE), "bfloat16").cuda()
    guidance = estimate_guidance(backbone, [videos])
    module = InterfaceAlignment(backbone, "3d", lora=Lora(8, 16)).cuda()
    module.use_guidance(guidance)
    adapter = [p for p in module.parameters() if p.requires_grad]
    assert {p.dtype for p in adapter} == {torch.float32}
    optimizer = torch.optim.AdamW(adapter, 1e-3)
    totals = []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            total = module.losses((255 - videos).cuda())["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    tokens = backbone.encode(videos.cuda())
    untouched = load_backbone(str(MINIATURE), "bfloat16").cuda().encode(videos.cuda())
    assert torch.equal(tokens, untouched)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("used", [False, True])
def test_a_quantized_llm_moves_to_the_gpu(kind, used, videos):
    pytest.importorskip("bitsandbytes")
    module = tuning(backbone=load_backbone(str(MINIATURE), "bfloat16", kind))
    asked = episode(videos)
    if used:
        module.losses(asked)
    on_cpu = tuning(backbone=load_backbone(str(MINIATURE), "float32")).losses(asked)
    module.cuda()
    asked["streams"] = {name: frames.cuda() for name, frames in asked["streams"].items()}
    with torch.autocast("cuda", torch.bfloat16):
        losses = module.losses(asked)
    losses.mean().backward()
    assert_close(losses.cpu().float(), on_cpu, atol=0.1, rtol=0.1)
    assert all(p.grad is not None for p in module._trained().values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_give_the_losses_and_gradients_of_the_dense_mask(tuned, checkpointing):
    tuned.cuda()
    if checkpointing:
        tuned.checkpoint_llm()
        tuned.train()
    lengths = [(30, 171, 5, 64), (9, 8), (200, 300, 400), (40, 41, 42), (30,)]
    found = [branch_gradients(tuned, each) for each in lengths]
    for each, blocks in zip(lengths, found, strict=True):
        assert_equal_gradients(blocks, branch_gradients(tuned, each, dense), 1e-4)


def test_blocks_run_in_mixed_precision(tuned):
    """Rotary embeddings leave queries and keys in float32 beside values in bfloat16."""
    wanted, _ = branch_gradients(tuned.cuda(), (30, 171, 5, 64))
    with torch.autocast("cuda", torch.bfloat16):
        found, _ = branch_gradients(tuned, (30, 171, 5, 64))
    assert_close(found, wanted, atol=0.05, rtol=0.05)
