"""A checkpoint whose weights and configuration do not belong together is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlynx_pl.backbones import BackboneError, load_backbone
from vlynx_pl.backbones.tiny import TINY


@pytest.fixture(params=TINY)
def folder(request, tiny, tmp_path):
    """A copy of a family's tiny model, whose output head is not the embeddings."""
    copy = shutil.copytree(tiny(request.param), tmp_path / "model")
    edit(copy, tie_word_embeddings=False)
    weights = stored(copy)
    [head] = [name for name in weights if name.endswith("lm_head.weight")] or ["lm_head.weight"]
    weights[head] = torch.randn(embeddings(weights).shape)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


def stored(folder):
    return load_file(folder / "model.safetensors")


def embeddings(weights):
    [found] = [tensor for name, tensor in weights.items() if name.endswith("embed_tokens.weight")]
    return found


def add(folder, name, tensor):
    save_file(stored(folder) | {name: tensor}, folder / "model.safetensors", {"format": "pt"})


def edit(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def has_own_head(backbone):
    model = backbone.model
    return not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


def test_an_extra_weight_is_named(folder):
    assert load_backbone(str(folder), "float32")
    add(folder, "model.language_model.layers.4.norm.weight", torch.ones(64))
    message = r"has 1 weights that .* no place for, for example .*layers\.4\.norm\.weight; give"
    with pytest.raises(BackboneError, match=message):
        load_backbone(str(folder), "float32")


def test_saved_frequencies_of_rope_are_ignored(folder):
    name = "model.language_model.layers.0.self_attn.rotary_emb.inv_freq"
    add(folder, name, torch.ones(8))
    assert load_backbone(str(folder), "float32")


def test_a_configuration_that_ties_another_head_is_refused(folder):
    assert has_own_head(load_backbone(str(folder), "float32"))
    edit(folder, tie_word_embeddings=True)
    with pytest.raises(BackboneError, match=r"the output head is the emb.*set it to false"):
        load_backbone(str(folder), "float32")


def test_a_head_that_repeats_the_embeddings_may_be_tied(folder):
    edit(folder, tie_word_embeddings=True)
    weights = stored(folder)
    [head] = [name for name in weights if name.endswith("lm_head.weight")]
    add(folder, head, embeddings(weights).clone())
    assert not has_own_head(load_backbone(str(folder), "float32"))


def test_where_the_configuration_says_nothing_the_stored_head_is_used(folder):
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    del settings["tie_word_embeddings"]
    path.write_text(json.dumps(settings))
    assert has_own_head(load_backbone(str(folder), "float32"))
