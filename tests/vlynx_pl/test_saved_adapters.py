"""Whatever PEFT can save: its tokens are PEFT's own, or the setting is named."""

import json
import re
import shutil

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from tests.conftest import MINIATURE
from vlynx_pl.adapters import AdapterError, adapter_hash, adapter_parameters, save_adapter
from vlynx_pl.backbones import load_backbone
from vlynx_pl.saved_adapters import saved_config

SUFFIXES = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
PATTERNS = {"rank_pattern": {"q_proj": 3, r".*\.[01]\..*fc1": 5}, "alpha_pattern": {"fc2": 2.5}}

READ = {
    "plain": {},
    "use_rslora": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 64}},
    "alpha_pattern, regular expression": {"alpha_pattern": {r"^encoder\.layers\.[01]\..*": 3.5}},
    "rank_pattern": {"rank_pattern": {"q_proj": 4}},
    "rank_pattern of all modules": {"rank_pattern": dict.fromkeys(SUFFIXES, 3)},
    "rank_pattern, alpha_pattern, rsLoRA": {**PATTERNS, "use_rslora": True},
    "use_dora": {"use_dora": True},
    "use_dora, rsLoRA, patterns": {**PATTERNS, "use_dora": True, "use_rslora": True},
    "lora_alpha, not an integer": {"lora_alpha": 22.627},
    "lora_bias": {"lora_bias": True},
    "lora_dropout": {"lora_dropout": 0.3},
    "target_modules, list": {"target_modules": ["q_proj", "v_proj"]},
    "target_modules, full name": {"target_modules": ["encoder.layers.2.mlp.fc1"]},
    "target_modules, regular expression": {"target_modules": r"encoder\.layers\.[13]\.mlp\.fc\d"},
    "target_modules, all-linear": {"target_modules": "all-linear"},
    "target_modules, convolution": {"target_modules": ["patch_embedding", "q_proj"]},
    "target_modules, convolution, DoRA": {"target_modules": ["patch_embedding"], "use_dora": True},
    "exclude_modules, list": {"exclude_modules": ["out_proj", "encoder.layers.0.mlp.fc1"]},
    "exclude_modules, regular expression": {"exclude_modules": r".*layers\.[02]\..*"},
    "layers_to_transform": {"layers_to_transform": [0, 3]},
    "layers_to_transform, one": {"layers_to_transform": 1},
    "layers_pattern": {"layers_to_transform": [2], "layers_pattern": "layers"},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "modules_to_save, empty": {"modules_to_save": []},
    "task_type": {"task_type": "FEATURE_EXTRACTION"},
    "init_lora_weights, none": {"init_lora_weights": False},
    "init_lora_weights, gaussian": {"init_lora_weights": "gaussian"},
    "init_lora_weights, orthogonal": {"init_lora_weights": "orthogonal"},
    "init_lora_weights, eva": {"init_lora_weights": "eva"},
}

REFUSED = {
    "bias": "all",
    "bias ": "lora_only",
    "init_lora_weights": "pissa",
    "init_lora_weights ": "pissa_niter_16",
    "init_lora_weights  ": "olora",
    "init_lora_weights   ": "loftq",
    "init_lora_weights    ": "corda",
    "init_lora_weights     ": "lora_ga",
    "init_lora_weights      ": "mica",
    "init_lora_weights       ": "of tomorrow",
    "modules_to_save": ["post_layernorm"],
    "target_parameters": ["encoder.layers.0.mlp.fc1.weight"],
    "trainable_token_indices": [1, 2],
    "layer_replication": [[0, 2], [1, 3]],
    "megatron_config": {"tensor_model_parallel_size": 2},
    "arrow_config": {"top_k": 2},
    "alora_invocation_tokens": [5],
    "use_qalora": True,
    "use_bdlora": {},
    "kasa_config": {},
    "velora_config": {"num_groups": 2},
    "monteclora_config": {"num_samples": 8},
    "ensure_weight_tying": True,
    "lora_of_tomorrow": {"strength": 2},
    "lora_of_tomorrow ": 0.5,
}
"""Setting (spaces tell the same ones apart) → a value that means more than LoRA."""

OTHER_METHODS = {
    "IA3": {"target_modules": ["q_proj", "fc2"], "feedforward_modules": ["fc2"]},
    "LoHa": {"target_modules": ["q_proj"]},
    "LoKr": {"target_modules": ["q_proj"]},
    "Vera": {"target_modules": ["q_proj"]},
    "OFT": {"target_modules": ["q_proj"], "oft_block_size": 8},
    "BOFT": {"target_modules": ["q_proj"], "boft_block_size": 8},
    "AdaLora": {"target_modules": ["q_proj"], "total_step": 10},
    "LNTuning": {"target_modules": ["layer_norm1"]},
}


def tokens(backbone, videos):
    """Of the vision tower with whatever PEFT has put into it."""
    with torch.no_grad():
        features = backbone.model.model.get_video_features(backbone.normalise(videos))
    return features.pooler_output[:, :-1].unflatten(1, (videos.shape[1], -1))


PLAIN = load_backbone(str(MINIATURE), "float32")
"""For plain PEFT alone, which leaves it again after each use."""


def from_peft(folder, videos):
    """Tokens of the miniature with an adapter that plain PEFT loads."""
    wrapper = PeftModel.from_pretrained(PLAIN.vision_tower, str(folder)).eval()
    read = tokens(PLAIN, videos)
    wrapper.unload()
    return read


def made_by_peft(folder, config, root=PLAIN.vision_tower):
    """A folder that PEFT saves, of an adapter none of whose tensors are as they begin."""
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
    """Other settings in a saved folder; None takes one away."""
    path = folder / "adapter_config.json"
    new = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in new.items() if value is not None}))


@pytest.fixture(scope="module")
def backbone():
    """One for all tests: every adapter shares it with those of other layers, ranks and kinds."""
    return load_backbone(str(MINIATURE), "float32")


@pytest.fixture
def name(backbone):
    """Of an adapter that the backbone does not have yet."""
    return f"adapter-{len(getattr(backbone._peft.get('vision'), 'peft_config', ()))}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A plain adapter of the vision tower, saved by PEFT; not to be changed."""
    return made_by_peft(tmp_path_factory.mktemp("saved") / "plain", lora())


@pytest.fixture
def folder(saved, tmp_path):
    """The same in a folder that may be changed."""
    return shutil.copytree(saved, tmp_path / "plain")


@pytest.mark.parametrize("settings", READ.values(), ids=READ)
def test_tokens_are_those_of_peft(backbone, name, videos, tmp_path, settings):
    folder = made_by_peft(tmp_path / "saved", lora(**settings))
    untouched = backbone.encode(videos)
    backbone.load_vision_adapter(name, saved_config(folder))
    with torch.no_grad():
        read = backbone.encode(videos, name)
    torch.testing.assert_close(read, from_peft(folder, videos), atol=1e-5, rtol=0)
    assert (read - untouched).abs().max() > 1e-3
    assert torch.equal(backbone.encode(videos), untouched)


@pytest.mark.parametrize("settings", [READ["plain"], READ["use_dora, rsLoRA, patterns"]])
def test_saved_again_it_is_the_same_to_peft(backbone, name, videos, tmp_path, settings):
    folder = made_by_peft(tmp_path / "saved", lora(**settings))
    backbone.load_vision_adapter(name, saved_config(folder))
    save_adapter(backbone.vision_adapters, name, tmp_path / "again")
    assert torch.equal(from_peft(tmp_path / "again", videos), from_peft(folder, videos))


@pytest.mark.parametrize(("setting", "value"), REFUSED.items())
def test_a_setting_that_means_more_is_named(folder, setting, value):
    setting = setting.strip()
    change(folder, **{setting: value})
    with pytest.raises(AdapterError) as error:
        saved_config(folder)
    assert str(error.value).startswith(f"{folder}: {setting}={value!r} in its adapter_config.json")
    assert "another model" not in str(error.value)


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_another_method_is_named(tmp_path, method):
    config = getattr(peft, f"{method}Config")(**OTHER_METHODS[method])
    folder = made_by_peft(tmp_path / method, config)
    with pytest.raises(AdapterError, match=f"peft_type='{config.peft_type.value}' in its .* LoRA"):
        saved_config(folder)


def test_a_base_that_peft_changed_is_named_and_reads_as_lora(backbone, name, videos, tmp_path):
    root = load_backbone(str(MINIATURE), "float32").vision_tower  # it will be changed
    config = lora(target_modules=["q_proj"], init_lora_weights="pissa")
    wrapper = PeftModel(root, config)
    config.init_lora_weights = True
    wrapper.save_pretrained(str(tmp_path / "begin"))
    config.init_lora_weights = "pissa"
    with torch.no_grad():
        for parameter in adapter_parameters(wrapper, "default").values():
            parameter.mul_(1.3)
    wrapper.save_pretrained(str(tmp_path / "pissa"))
    with pytest.raises(AdapterError, match=r"init_lora_weights='pissa'.*path_initial_model_for_"):
        saved_config(tmp_path / "pissa")
    wrapper.save_pretrained(
        str(tmp_path / "lora"), path_initial_model_for_weight_conversion=str(tmp_path / "begin")
    )
    backbone.load_vision_adapter(name, saved_config(tmp_path / "lora"))
    wanted = from_peft(tmp_path / "lora", videos)
    torch.testing.assert_close(backbone.encode(videos, name), wanted, atol=1e-5, rtol=0)


def test_settings_of_an_old_peft_are_fewer(backbone, name, videos, folder):
    old = {
        "base_model_name_or_path": None, "bias": "none", "enable_lora": None,
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "lora_alpha": 16, "lora_dropout": 0.0, "merge_weights": False, "modules_to_save": None,
        "peft_type": "LORA", "r": 8, "target_modules": SUFFIXES, "task_type": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(old))
    backbone.load_vision_adapter(name, saved_config(folder))
    assert torch.equal(backbone.encode(videos, name), from_peft(folder, videos))


def test_settings_of_a_new_peft_that_are_off_are_no_matter(folder):
    change(folder, lora_of_tomorrow=False, and_its_list=[], and_its_settings={})
    assert saved_config(folder).config.r == 8


def refusal(backbone, folder, part="vision"):
    """What is said of a folder that leaves the model as it was."""
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
            {"rank_pattern": {"fc1": 10**9}, "use_rslora": True},
            r"of shape \(1000000000, \d+\), with .*rank_pattern=",
        ),
        (
            {"target_modules": ["q_proj"]},
            "but its .* asks for no such tensor, with .*target_modules=",
        ),
        (
            {"exclude_modules": ["q_proj"]},
            "q_proj.lora_A.weight .* asks for no such tensor, with exclude_mo",
        ),
        (
            {"layers_to_transform": [0]},
            "layers.1.* asks for no such tensor, with .*layers_to_transform=",
        ),
        ({"target_modules": ["patch"]}, r"does not fit this model \(.*patch"),
        ({"target_modules": ["post_layernorm"]}, r"does not fit this model \(.*LayerNorm"),
        ({"target_modules": "("}, "does not fit this model"),
        ({"target_modules": 3}, "does not fit this model"),
        ({"alpha_pattern": {"(": 3}}, "does not fit this model"),
        ({"target_modules": ["position_embedding"]}, "position_embedding, a layer of Embedding"),
    ],
)
def test_two_files_that_are_not_of_one_adapter(backbone, folder, settings, message):
    change(folder, **settings)
    assert re.search(message, refusal(backbone, folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"q_proj": 2.5}},
        {"rank_pattern": [3]},
        {"alpha_pattern": {"q_proj": float("nan")}},
        {"alpha_pattern": {"q_proj": 0}},
    ],
)
def test_patterns_of_no_numbers(folder, settings):
    change(folder, **settings)
    with pytest.raises(AdapterError, match="is not a PEFT adapter"):
        saved_config(folder)


def test_a_file_is_not_an_adapter_folder(folder):
    with pytest.raises(AdapterError, match="is a file, not a folder; give"):
        saved_config(folder / "adapter_config.json")


def test_an_adapter_of_the_whole_model_is_told_apart(backbone, tmp_path):
    folder = made_by_peft(tmp_path / "whole", lora(target_modules=["q_proj"]), PLAIN.model)
    said = refusal(backbone, folder)
    assert "saved around a larger model" in said
    assert "'model.vision_tower.'" in said


def test_names_of_an_older_transformers_are_told_apart(backbone, folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({k.replace("encoder", "vision_model.encoder"): t for k, t in tensors.items()}, path)
    said = refusal(backbone, folder)
    assert "another version of transformers" in said and "'vision_model.'" in said


def test_nothing_but_the_adapter_is_taken_from_its_file(backbone, folder):
    """A tensor of the base would change every other adapter's tokens too."""
    path = folder / "adapter_model.safetensors"
    layer = "base_model.model.encoder.layers.0.self_attn.q_proj"
    tensors = load_file(path)
    for key in (f"{layer}.base_layer.bias", f"{layer}.lora_A.3d.weight"):
        save_file(tensors | {key: torch.ones(128)}, path)
        assert key in refusal(backbone, folder)


def test_a_pickle_is_refused_with_what_makes_it_safetensors(backbone, name, folder, videos):
    wanted = from_peft(folder, videos)
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert "save it again with save_pretrained" in refusal(backbone, folder)
    wrapper = PeftModel.from_pretrained(PLAIN.vision_tower, str(folder))
    wrapper.save_pretrained(str(folder))
    wrapper.unload()
    backbone.load_vision_adapter(name, saved_config(folder))
    assert torch.equal(backbone.encode(videos, name), wanted)


def test_an_adapter_of_the_llms_embeddings_is_refused(backbone, tmp_path):
    """Text is embedded where no adapter is on, so that it would be read past."""
    config = lora(target_modules=["embed_tokens", "q_proj"])
    folder = made_by_peft(tmp_path / "llm", config, PLAIN.language_model)
    said = refusal(backbone, folder, "llm")
    assert "target_modules" in said and "embed_tokens, a layer of Embedding" in said


def test_the_hash_tells_scales_apart(backbone, name, folder):
    """Kept tokens belong to an adapter with its settings."""
    hashes = {}
    for case, settings in {
        "plain": {},
        "alpha": {"lora_alpha": 17},
        "rslora": {"use_rslora": True},
        "pattern": {"alpha_pattern": {"q_proj": 17}},
        "other pattern": {"alpha_pattern": {"k_proj": 17}},
        "same": {"alpha_pattern": {"q_proj": 16}},
    }.items():
        change(folder, alpha_pattern={}, use_rslora=False, lora_alpha=16)
        change(folder, **settings)
        backbone.load_vision_adapter(name, saved_config(folder))
        hashes[case] = adapter_hash(backbone.vision_adapters, name)
        backbone.vision_adapters.delete_adapter(name)
    assert hashes.pop("same") == hashes["plain"]
    assert len(set(hashes.values())) == len(hashes)


def test_the_hash_knows_doras_magnitudes(backbone, name, tmp_path):
    folder = made_by_peft(tmp_path / "dora", lora(use_dora=True))
    backbone.load_vision_adapter(name, saved_config(folder))
    then = adapter_hash(backbone.vision_adapters, name)
    magnitude = next(
        parameter
        for key, parameter in adapter_parameters(backbone.vision_adapters, name).items()
        if "magnitude" in key
    )
    magnitude.data[0] *= 2
    assert adapter_hash(backbone.vision_adapters, name) != then
