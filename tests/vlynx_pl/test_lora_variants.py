"""LoRA, rsLoRA and DoRA: trained, resumed, saved, loaded by plain PEFT, and evaluated."""

from dataclasses import replace

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from torch.testing import assert_close
from torch.utils.data import DataLoader

from tests.conftest import quiet_trainer
from tests.vlynx_pl.conftest import episode, load_miniature, tuning
from vlynx_pl.adapters import AdapterError, Lora, adapter_parameters
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.guidance import estimate_guidance
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

PLAIN = Lora(4, 8, 0.2)
VARIANTS = {
    "LoRA": PLAIN,
    "rsLoRA": replace(PLAIN, use_rslora=True),
    "DoRA": replace(PLAIN, use_dora=True),
}


def tuned(lora) -> InstructionTuning:
    streams = AlignedStreams({"3d": "base"}, train_vision=True, lora=lora)
    return tuning(streams, lora=lora, max_new_tokens=2, learning_rate=1e-2, warmup=0.0)


def fit(module, videos, folder, checkpoint=None):
    clips = [episode(videos, "3d", answers=(word,)) for word in ("red", "box")]
    module.transfer_batch_to_device = lambda batch, *_: batch  # Lightning: no frozen dataclasses
    trainer = quiet_trainer(folder, ModelCheckpoint(folder, save_top_k=-1), max_epochs=2)
    batches = DataLoader(clips, collate_fn=list)
    trainer.fit(module, batches, ckpt_path=checkpoint, weights_only=True)
    return {name: parameter.detach().clone() for name, parameter in module._trained().items()}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def lora(request):
    return request.param


def test_a_tuned_variant_resumes_and_is_read_everywhere(lora, videos, tmp_path):
    torch.manual_seed(0)
    module = tuned(lora)
    begun = {name: p.detach().clone() for name, p in module._trained().items()}
    trained = fit(module, videos, tmp_path)
    assert all(not torch.equal(trained[name], begun[name]) for name in begun)
    assert any("magnitude" in name for name in begun) == lora.use_dora

    [middle] = tmp_path.glob("epoch=0*.ckpt")
    torch.manual_seed(1)
    resumed = fit(tuned(lora), videos, tmp_path / "again", middle)
    assert resumed.keys() == trained.keys()
    assert all(torch.equal(resumed[name], trained[name]) for name in trained)

    module.save_adapters(tmp_path / "run", {})
    saved = tmp_path / "run" / "vision-3d", tmp_path / "run" / "llm-qa"
    streams = AlignedStreams({"3d": str(saved[0])})
    again = tuning(streams, llm_adapter=str(saved[1]), max_new_tokens=2).eval()
    clip = episode(videos, "3d")
    assert again.answers(clip) == module.answers(clip)
    with torch.no_grad():
        assert_close(again.losses(clip), module.eval().losses(clip), atol=1e-5, rtol=0)

    plain = load_miniature()
    PeftModel.from_pretrained(plain.vision_tower, str(saved[0])).eval()
    pixels = plain.normalise(clip["streams"]["3d"][None])
    with torch.no_grad():
        tokens = plain.model.model.get_video_features(pixels).pooler_output[0, :-1]
        assert_close(module.encode(clip)[1].tokens.flatten(0, 1), tokens, atol=1e-5, rtol=0)


def test_an_aligned_variant_learns_and_leaves_the_base_alone(lora, videos, backbone):
    guidance = estimate_guidance(backbone, [videos])
    torch.manual_seed(0)
    module = InterfaceAlignment(backbone, "3d", lora=replace(lora, dropout=0.0))
    module.use_guidance(guidance)
    frames = 255 - videos
    untouched = backbone.encode(frames)
    optimizer = torch.optim.AdamW(adapter_parameters(backbone.vision_adapters, "3d").values(), 1e-2)
    totals = []
    for _ in range(5):
        loss = module.losses(frames)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < totals[0]
    assert torch.equal(backbone.encode(frames), untouched)


@pytest.mark.parametrize("other", [VARIANTS["rsLoRA"], replace(PLAIN, alpha=16)], ids=str)
def test_a_checkpoint_of_another_scale_is_refused(other):
    module = tuned(PLAIN)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    with pytest.raises(AdapterError, match=r"saved with scales .*'llm-qa': \[2\.0\]"):
        tuned(other).on_load_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("config", ["align/3d.yaml", "tune/scanqa.yaml"])
def test_a_variant_is_a_setting(vlynx, config, tmp_path):
    code, printed = vlynx(
        "fit", "--config=experiments/backbones/miniature.yaml", f"--config=experiments/{config}",
        f"--data.root={tmp_path}", "--model.lora.use_dora=true", "--print_config",
    )  # fmt: skip
    assert code == 0, printed
    lora = yaml.safe_load(printed)["model"]["init_args"]["lora"]
    assert lora["use_dora"] and not lora["use_rslora"]
