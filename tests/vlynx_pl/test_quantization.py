"""4- and 8-bit LLMs; what needs bitsandbytes runs where it is installed."""

import re
import sys

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from tests.conftest import MINIATURE, quiet_trainer
from tests.vlynx_pl.conftest import episode, load_miniature, perturbed, saved, tuning
from vlynx_pl.adapters import AdapterError
from vlynx_pl.backbones import BackboneError, load_backbone
from vlynx_pl.backbones.quantization import move_scales
from vlynx_pl.streams import AlignedStreams

KINDS = {"nf4": (torch.uint8, "Linear4bit"), "int8": (torch.int8, "Linear8bitLt")}


def load(quantization, dtype="float32"):
    pytest.importorskip("bitsandbytes")
    return load_backbone(str(MINIATURE), dtype, quantization)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_linear_layers_of_the_llm_are_quantized(kind, backbone):
    quantized, (dtype, _) = load(kind), KINDS[kind]
    plain = backbone.state_dict()
    found = {name for name, p in quantized.named_parameters() if p.dtype == dtype}
    layers = backbone.language_model.named_modules(prefix="model.model.language_model")
    assert found == {f"{name}.weight" for name, m in layers if isinstance(m, nn.Linear)}
    for name, parameter in quantized.named_parameters():
        assert name in found or torch.equal(parameter, plain[name])
    assert quantized.fingerprint == backbone.fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_llm_is_tuned_through_float32_adapters(kind, dtype, videos, tmp_path):
    plain = tuning(AlignedStreams({"3d": "base"}), load_miniature(dtype))
    module = tuning(AlignedStreams({"3d": "base"}), load(kind, dtype))
    asked = episode(videos, "3d")
    precision = {"precision": "bf16-mixed"} if dtype == "bfloat16" else {}
    trainer = quiet_trainer(tmp_path, max_steps=2, **precision)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        assert_close(module.losses(asked), plain.losses(asked), rtol=0.1, atol=0.1)
    layers = [m for m in module.modules() if isinstance(m, LoraLayer)]
    assert {type(layer).__name__ for layer in layers} == {KINDS[kind][1]}
    before = {name: p.detach().clone() for name, p in module._trained().items()}
    assert before and {p.dtype for p in before.values()} == {torch.float32}
    module.transfer_batch_to_device = lambda batch, *_: batch
    trainer.fit(module, DataLoader([[asked]] * 2, batch_size=None))
    assert all(not torch.equal(p, before[name]) for name, p in module._trained().items())
    trainer.save_checkpoint(tmp_path / "step.ckpt")
    checkpoint = torch.load(tmp_path / "step.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == before.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_moves_between_a_quantized_llm_and_a_plain_one(kind, videos, tmp_path):
    module = perturbed(tuning(backbone=load(kind)))
    folder = saved(module, tmp_path)
    for backbone in (load(kind), load_miniature()):
        again = tuning(backbone=backbone, llm_adapter=folder)
        tensors, wanted = again._trained(), module._trained()
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    with torch.no_grad():
        asked = episode(videos)
        assert_close(again.losses(asked), module.losses(asked), rtol=0.2, atol=0.2)


def test_the_scales_of_8_bit_layers_follow_their_weights():
    llm = load("int8").language_model
    new, used = llm.layers[0].mlp.up_proj, llm.layers[0].mlp.gate_proj
    new.weight.data = new.weight.data.clone()  # as Module.to() does
    used(torch.ones(1, used.in_features))  # puts the scales into its state
    used.weight = used.weight.to("meta")
    move_scales(llm)
    assert new.weight.CB.data_ptr() == new.weight.data_ptr()
    assert new.weight.SCB is not None and not new.weight.SCB.is_meta
    assert used.state.CB.is_meta and used.state.SCB.is_meta


def test_the_whole_module_moves_scales(monkeypatch):
    moved = []
    backbone = load_miniature()
    monkeypatch.setattr("vlynx_pl.backbones.adapted_model.move_scales", moved.append)
    nn.Sequential(backbone).to("cpu")
    assert not moved
    backbone.quantization = "int8"
    nn.Sequential(backbone).to("cpu")
    assert moved == [backbone.language_model]


def test_a_missing_package_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BackboneError, match=r"quantization=nf4 needs bitsandbytes.*pip install"):
        load_backbone(str(MINIATURE), quantization="nf4")


def test_a_package_without_kernels_for_the_gpu_is_one_clear_error(monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("bitsandbytes.cextension.lib.compiled_with_cuda", False, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BackboneError, match=r"quantization=int8 .*no kernels for CUDA"):
        load_backbone(str(MINIATURE), quantization="int8")


def test_a_run_does_not_go_on_with_another_quantization(fresh):
    module = tuning(backbone=fresh)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    fresh.quantization = "nf4"
    with pytest.raises(AdapterError, match="saved with quantization None, this run has nf4"):
        module.on_load_checkpoint(checkpoint)


def test_an_adapter_tuned_with_another_quantization_warns(fresh, tmp_path, recwarn):
    folder = saved(tuning(backbone=fresh), tmp_path)
    tuning(backbone=load_miniature(), llm_adapter=folder)
    said = re.compile(r"tuned with backbone\.quantization=None, here it is nf4")
    assert not any(said.search(str(each.message)) for each in recwarn)
    other = load_miniature()
    other.quantization = "nf4"
    tuning(backbone=other, llm_adapter=folder)
    assert any(said.search(str(each.message)) for each in recwarn)
