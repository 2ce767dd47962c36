"""The method on a GPU, in bfloat16; make test runs none of this without one."""

import pytest
import torch
from torch.testing import assert_close

from tests.conftest import MINIATURE
from tests.vlynx_pl.conftest import episode, tuning
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
