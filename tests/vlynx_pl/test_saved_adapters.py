"""Saved adapters: with what PEFT saves, tokens are PEFT's own, or the setting is refused."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from tests.conftest import MINIATURE
from tests.vlynx_pl.conftest import load_miniature, randomise
from vlynx_pl.adapters import AdapterError, Lora, adapter_hash, adapter_parameters, save_adapter
from vlynx_pl.saved_adapters import saved_config

SUFFIXES = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
PATTERNS = {"rank_pattern": {"q_proj": 3, r".*\.[01]\..*fc1": 5}, "alpha_pattern": {"fc2": 2.5}}
EVERYTHING = {**PATTERNS, "use_dora": True, "use_rslora": True}
SUPPORTED = [
    {},
    {**PATTERNS, "use_rslora": True, "lora_alpha": 22.627},
    EVERYTHING,
    {"alpha_pattern": {r"^encoder\.layers\.[01]\..*": 3.5}},
    {"lora_bias": True, "lora_dropout": 0.3},
    {"target_modules": ["encoder.layers.2.mlp.fc1"]},
    {"target_modules": r"encoder\.layers\.[13]\.mlp\.fc\d"},
    {"target_modules": "all-linear"},
    {"target_modules": ["patch_embedding"], "use_dora": True},
    {"exclude_modules": ["out_proj", "encoder.layers.0.mlp.fc1"]},
    {"exclude_modules": r".*layers\.[02]\..*"},
    {"layers_to_transform": 1},
    {"layers_to_transform": [2], "layers_pattern": "layers"},
    {"fan_in_fan_out": True, "modules_to_save": [], "task_type": "FEATURE_EXTRACTION"},
    {"init_lora_weights": False},
    {"init_lora_weights": "eva"},
]
REFUSED = [  # setting, and a value that means more than LoRA
    ("bias", "all"),
    ("init_lora_weights", "pissa"),
    ("init_lora_weights", "of tomorrow"),
    ("modules_to_save", ["post_layernorm"]),
    ("target_parameters", ["encoder.layers.0.mlp.fc1.weight"]),
    ("layer_replication", [[0, 2], [1, 3]]),
    ("use_bdlora", {}),
    ("lora_of_tomorrow", 0.5),
]
PLAIN_PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText
miniature, adapter, pixels, out = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(miniature, dtype=torch.float32).eval()
PeftModel.from_pretrained(model.model.vision_tower, adapter).eval()
with torch.no_grad():
    tokens = model.model.get_video_features(torch.load(pixels), return_dict=True).pooler_output
torch.save(tokens, out)
assert not {"vlynx_pl", "callbacks", "datamodules"} & sys.modules.keys()
"""


def tokens(backbone, videos):
    """Tokens of the vision tower with whatever PEFT has put into it."""
    with torch.no_grad():
        features = backbone.model.model.get_video_features(backbone.normalise(videos))
    return features.pooler_output[:, :-1].unflatten(1, (videos.shape[1], -1))


PLAIN = load_miniature()
"""Used by plain PEFT only, and unloaded after each use."""


def from_peft(folder, videos):
    """Tokens of the miniature with an adapter that plain PEFT loads."""
    wrapper = PeftModel.from_pretrained(PLAIN.vision_tower, str(folder)).eval()
    read = tokens(PLAIN, videos)
    wrapper.unload()
    return read


def made_by_peft(folder, config, root=PLAIN.vision_tower):
    """Save an adapter with PEFT; none of its tensors has its initial value."""
    wrapper = PeftModel(root, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in wrapper.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                magnitude = "magnitude" in name
                parameter.copy_(parameter * (1 + 0.2 * noise) if magnitude else 0.05 * noise)
    wrapper.save_pretrained(str(folder))
    wrapper.unload()
    return folder


def lora(**settings) -> LoraConfig:
    return LoraConfig(**({"r": 8, "lora_alpha": 16, "target_modules": SUFFIXES} | settings))


def change(folder, **settings):
    """Change settings in a saved folder."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture(scope="module")
def backbone():
    """One backbone for all tests, so that adapters of all kinds share it."""
    return load_miniature()


@pytest.fixture
def name(backbone):
    """Name of an adapter that the backbone does not have yet."""
    return f"adapter-{len(getattr(backbone._peft.get('vision'), 'peft_config', ()))}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A plain adapter of the vision tower, saved by PEFT; read-only."""
    return made_by_peft(tmp_path_factory.mktemp("saved") / "plain", lora())


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(saved, tmp_path / "plain")


@pytest.mark.parametrize("settings", SUPPORTED, ids=str)
def test_tokens_are_those_of_peft(backbone, name, videos, tmp_path, settings):
    folder = made_by_peft(tmp_path / "saved", lora(**settings))
    untouched = backbone.encode(videos)
    backbone.load_vision_adapter(name, saved_config(folder))
    with torch.no_grad():
        read = backbone.encode(videos, name)
    torch.testing.assert_close(read, from_peft(folder, videos), atol=1e-5, rtol=0)
    assert (read - untouched).abs().max() > 1e-3
    assert torch.equal(backbone.encode(videos), untouched)


def test_an_adapter_saved_again_is_the_same_to_peft(backbone, name, videos, tmp_path):
    folder = made_by_peft(tmp_path / "saved", lora(**EVERYTHING))
    backbone.load_vision_adapter(name, saved_config(folder))
    save_adapter(backbone.vision_adapters, name, tmp_path / "again")
    assert torch.equal(from_peft(tmp_path / "again", videos), from_peft(folder, videos))


@pytest.mark.parametrize(("setting", "value"), REFUSED)
def test_an_unsupported_setting_is_named(folder, setting, value):
    change(folder, **{setting: value})
    with pytest.raises(AdapterError) as error:
        saved_config(folder)
    assert str(error.value).startswith(f"{folder}: {setting}={value!r} in its adapter_config.json")
    converts = "path_initial_model_for_weight_conversion" in str(error.value)
    assert converts == (setting == "init_lora_weights")


@pytest.mark.parametrize(
    "config",
    [IA3Config(target_modules=["fc2"], feedforward_modules=["fc2"]), LoHaConfig()],
    ids=["IA3", "LoHa"],
)
def test_another_method_is_named(folder, config):
    config.save_pretrained(str(folder))
    with pytest.raises(AdapterError, match=f"peft_type='{config.peft_type.value}' in its .* LoRA"):
        saved_config(folder)


def test_our_adapter_loads_with_plain_peft_in_a_process_without_us(videos, tmp_path):
    backbone = load_miniature()
    backbone.add_vision_adapter("3d", Lora(8, 16))
    randomise(backbone.vision_adapters, "3d", 0.1)
    backbone.add_vision_adapter("other", Lora(4, 8))
    save_adapter(backbone.vision_adapters, "3d", tmp_path / "vision-3d")
    names = {file.name for file in (tmp_path / "vision-3d").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    torch.save(backbone.normalise(videos), tmp_path / "pixels.pt")
    paths = [MINIATURE, tmp_path / "vision-3d", tmp_path / "pixels.pt", tmp_path / "tokens.pt"]
    subprocess.run([sys.executable, "-c", PLAIN_PEFT, *map(str, paths)], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "tokens.pt", weights_only=True)[:, :-1]
    assert torch.equal(found, backbone.encode(videos, "3d").flatten(1, 2))


def test_no_name_of_an_adapter_unfreezes_the_base():
    backbone = load_miniature()
    backbone.add_vision_adapter("encoder", Lora(4, 8))
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)


def test_unknown_settings_that_are_off_are_ignored(folder):
    change(folder, lora_of_tomorrow=False, its_list=[], its_settings={}, enable_lora=None)
    assert saved_config(folder).config.r == 8


def refusal(backbone, folder, part="vision"):
    """The message that refuses a folder, which leaves the model unchanged."""
    untouched = backbone.state_dict().keys()
    load = backbone.load_vision_adapter if part == "vision" else backbone.load_llm_adapter
    with pytest.raises(AdapterError) as error:
        load("refused", saved_config(folder))
    assert str(folder) in str(error.value)
    assert {key.replace(".base_layer", "") for key in backbone.state_dict()} == {
        key.replace(".base_layer", "") for key in untouched
    }
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "lora_magnitude_vector is missing, but .* use_dora=True"),
        ({"lora_bias": True}, r"lora_B.bias is missing, but .* asks for one of shape \(\d+,\)"),
        ({"r": 4}, r"lora_A.weight has shape \(8, \d+\), but .* of shape \(4, \d+\), with .*r=4"),
        (
            {"exclude_modules": ["q_proj"]},
            "q_proj.lora_A.weight .* asks for no such tensor, with exclude_mo",
        ),
        ({"target_modules": ["patch"]}, r"does not fit this model \(.*patch"),
        ({"alpha_pattern": {"(": 3}}, "does not fit this model"),
        ({"target_modules": ["position_embedding"]}, "position_embedding, which is of type Embed"),
    ],
)
def test_two_files_of_different_adapters_are_refused(backbone, folder, settings, message):
    change(folder, **settings)
    assert re.search(message, refusal(backbone, folder))


def test_alphas_are_finite_numbers_above_0(folder):
    for alpha in (float("nan"), 0):
        change(folder, alpha_pattern={"q_proj": alpha})
        with pytest.raises(AdapterError, match="is not a PEFT adapter"):
            saved_config(folder)


def test_a_file_is_not_an_adapter_folder(folder):
    with pytest.raises(AdapterError, match="is a file, not a folder; give"):
        saved_config(folder / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read as a PEFT adapter"),
        (lambda path: os.truncate(path, 500), "cannot be read as a PEFT adapter"),
        (lambda path: path.rename(path.with_suffix(".bin")), "save it again with save_pretrained"),
    ],
    ids=["missing", "truncated", "pickle"],
)
def test_weights_that_cannot_be_read_are_one_clear_error(backbone, folder, damage, message):
    damage(folder / "adapter_model.safetensors")
    assert message in refusal(backbone, folder)


def test_an_adapter_of_another_part_is_refused(backbone, folder):
    said = refusal(backbone, folder, "llm")
    assert "made for another model" in said and "such as encoder.layers" in said


def test_an_adapter_of_the_whole_model_is_named(backbone, tmp_path):
    folder = made_by_peft(tmp_path / "whole", lora(target_modules=["q_proj"]), PLAIN.model)
    said = refusal(backbone, folder)
    assert "saved around a larger model or by another version of transformers" in said
    assert "'model.vision_tower.'" in said


def test_nothing_but_the_adapter_is_taken_from_its_file(backbone, folder):
    """A tensor of the base would change every other adapter's tokens too."""
    path = folder / "adapter_model.safetensors"
    layer = "base_model.model.encoder.layers.0.self_attn.q_proj"
    tensors = load_file(path)
    for key in (f"{layer}.base_layer.bias", f"{layer}.lora_A.3d.weight"):
        save_file(tensors | {key: torch.ones(128)}, path)
        assert key in refusal(backbone, folder)


def test_the_hash_includes_scales(backbone, name, folder):
    hashes = {}
    for case, settings in {
        "plain": {},
        "alpha": {"lora_alpha": 17},
        "pattern": {"alpha_pattern": {"q_proj": 17}},
        "same": {"alpha_pattern": {"q_proj": 16}},
    }.items():
        change(folder, **{"alpha_pattern": {}, "lora_alpha": 16} | settings)
        backbone.load_vision_adapter(name, saved_config(folder))
        hashes[case] = adapter_hash(backbone.vision_adapters, name)
        backbone.vision_adapters.delete_adapter(name)
    assert hashes.pop("same") == hashes["plain"]
    assert len(set(hashes.values())) == len(hashes)


def test_the_hash_includes_magnitudes_of_dora(backbone, name, tmp_path):
    folder = made_by_peft(tmp_path / "dora", lora(use_dora=True))
    backbone.load_vision_adapter(name, saved_config(folder))
    then = adapter_hash(backbone.vision_adapters, name)
    parameters = adapter_parameters(backbone.vision_adapters, name)
    magnitude = next(key for key in parameters if "magnitude" in key)
    parameters[magnitude].data[0] *= 2
    assert adapter_hash(backbone.vision_adapters, name) != then
