"""Untrusted adapters."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import MINIATURE
from tests.security.conftest import DEEP, LONG_HEADERS, saved
from vlynx_pl.adapters import AdapterError, Lora, save_adapter
from vlynx_pl.backbones import load_backbone
from vlynx_pl.saved_adapters import saved_config


@pytest.fixture(scope="module")
def whole_adapter(tmp_path_factory):
    """The miniature with an adapter, and the folder that it is saved in."""
    backbone = load_backbone(str(MINIATURE), "float32")
    backbone.add_vision_adapter("3d", Lora(4, 8))
    folder = tmp_path_factory.mktemp("adapters") / "3d"
    save_adapter(backbone.vision_adapters, "3d", folder, {"frames": {}})
    assert saved_config(folder).config.r == 4
    return backbone, folder


@pytest.fixture
def adapted(whole_adapter, tmp_path):
    """The same with a copy of the folder."""
    backbone, folder = whole_adapter
    return backbone, shutil.copytree(folder, tmp_path / "3d")


def test_adapter_weights_that_are_a_pickle(adapted, pickled, pickle_payload):
    backbone, folder = adapted
    weights = folder / "adapter_model.safetensors"
    for content in (pickled, saved(pickle_payload)):
        weights.write_bytes(content)
        with pytest.raises(AdapterError, match=r"cannot be read as a PEFT adapter .*too large"):
            backbone.load_vision_adapter("untrusted", saved_config(folder))
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin: is a pickle, .* any program"):
        backbone.load_vision_adapter("untrusted", saved_config(folder))


@pytest.mark.parametrize("content", LONG_HEADERS)
def test_adapter_weights_that_claim_a_long_header(adapted, content):
    backbone, folder = adapted
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match="cannot be read as a PEFT adapter"):
        backbone.load_vision_adapter("untrusted", saved_config(folder))


def settings(**changes: object) -> bytes:
    usual = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    return json.dumps(usual | {"target_modules": "all-linear"} | changes).encode()


@pytest.mark.parametrize(
    "content",
    [
        *(DEEP, b"[]", b"\x80"),
        *(settings(r=rank) for rank in ([4], float("nan"), 0, 2**31, 4.0, True, "4")),
        *(settings(rank_pattern={"fc1": rank}) for rank in (0, "4")),
        *(settings(lora_alpha=alpha) for alpha in ({}, 10**400, 1e39, -1)),
        *(settings(lora_dropout=share) for share in (float("nan"), -0.1, 1.0)),
    ],
)
def test_adapter_settings_of_a_wrong_kind(adapted, content):
    _, folder = adapted
    (folder / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdapterError, match="3d is not a PEFT adapter"):
        saved_config(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 5},
        {"r": 2**31 - 1, "use_dora": True},
        {"rank_pattern": {"fc1": 10**9}},
        {"target_modules": "(.*patch_embedding|.*proj)", "r": 10**8},
    ],
)
def test_a_lora_rank_other_than_that_of_the_weights(adapted, changes):
    """Otherwise a few bytes could make the model arbitrarily large."""
    backbone, folder = adapted
    (folder / "adapter_config.json").write_bytes(settings(**changes))
    with pytest.raises(AdapterError, match=r"adapter_config\.json asks for"):
        backbone.load_vision_adapter("untrusted", saved_config(folder))


def rewrite_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path)


def test_empty_adapter_matrices(adapted):
    backbone, folder = adapted
    rewrite_weights(folder, lambda tensor: tensor[:0].contiguous())
    with pytest.raises(AdapterError, match=r"lora_A\.weight has shape \(0, \d+\), but"):
        backbone.load_vision_adapter("untrusted", saved_config(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor * float("nan"),
        lambda tensor: tensor.index_fill(0, torch.tensor([1]), float("-inf")),
        lambda tensor: tensor.to(torch.int64),
        lambda tensor: tensor.to(torch.float8_e8m0fnu),
    ],
)
def test_adapter_weights_that_are_not_finite_numbers(adapted, change):
    backbone, folder = adapted
    rewrite_weights(folder, change)
    with pytest.raises(AdapterError, match=r"lora_A.* contains values that are not finite"):
        backbone.load_vision_adapter("untrusted", saved_config(folder))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_adapter_weights_of_other_precisions_are_accepted(adapted, kind):
    backbone, folder = adapted
    rewrite_weights(folder, lambda tensor: tensor.to(kind))
    backbone.load_vision_adapter(f"of-{kind}".replace(".", "-"), saved_config(folder))


@pytest.mark.parametrize(
    "content", [DEEP, b"[1]", b"{", b"\x80", b'{"fingerprint": ["a"]}', b'{"drawing": 3}']
)
def test_a_damaged_note_beside_an_adapter(adapted, content):
    _, folder = adapted
    (folder / "made_with.json").write_bytes(content)
    with pytest.raises(AdapterError, match="3d is not a PEFT adapter"):
        saved_config(folder)
