"""Untrusted backbones."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import MINIATURE
from tests.security.conftest import DEEP, saved
from vlynx_pl.backbones import BackboneError, load_backbone


@pytest.fixture
def copied(tmp_path) -> Path:
    """A copy of the miniature."""
    return shutil.copytree(MINIATURE, tmp_path / "backbone")


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_backbone_weights_that_are_a_pickle(copied, pickle_payload, pickled):
    weights = copied / "model.safetensors"
    weights.write_bytes(pickled)
    with pytest.raises(BackboneError, match="header too large"):
        load_backbone(str(copied))
    weights.unlink()
    (copied / "pytorch_model.bin").write_bytes(saved(pickle_payload))
    with pytest.raises(BackboneError, match=r"no file named model\.safetensors"):
        load_backbone(str(copied))
    (copied / "pytorch_model.bin").rename(copied / "weights.bin")
    index = {"metadata": {}, "weight_map": {"model.image_newline": "weights.bin"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_backbone(str(copied))


def test_missing_weights_are_not_initialised_at_random(copied):
    weights = load_file(copied / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    del weights[name]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=r"lacks 1 weights, for example .*q_proj\.weight"):
        load_backbone(str(copied))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {}),
        ("config.json", {"model_type": "strange"}),
        ("processor_config.json", {"processor_class": "Strange"}),
        ("tokenizer_config.json", {"tokenizer_class": "Strange"}),
    ],
)
def test_code_in_a_backbone_is_neither_run_nor_asked_about(
    copied, monkeypatch, marker, file, changes
):
    code = f"import os\nos.mkdir({str(marker)!r})\nclass Strange: pass\n"
    (copied / "strange.py").write_text(code)
    kinds = ("Config", "ModelForImageTextToText", "Processor", "VideoProcessor", "ImageProcessor")
    own = {f"Auto{kind}": "strange.Strange" for kind in kinds}
    own["AutoTokenizer"] = ["strange.Strange", "strange.Strange"]
    rewrite(copied / file, auto_map=own, **changes)
    asked = []
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or "y")
    if changes:
        with pytest.raises(BackboneError, match="cannot be loaded"):
            load_backbone(str(copied))
    else:
        load_backbone(str(copied))
    assert not asked


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", DEEP),
        ("processor_config.json", b"[1]"),
        ("tokenizer.json", DEEP),
        ("tokenizer.json", b'{"model": {}}'),
        ("generation_config.json", b"[1]"),
    ],
)
def test_damaged_settings_of_a_backbone(copied, file, content):
    (copied / file).write_bytes(content)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_backbone(str(copied))


@pytest.mark.parametrize(
    ("part", "sizes"),
    [
        ("text_config", {"vocab_size": 7}),
        ("text_config", {"vocab_size": None}),
        ("vision_config", {"intermediate_size": 7}),
        ("vision_config", {"hidden_act": "odd"}),
    ],
)
def test_backbone_settings_that_do_not_fit_its_weights(copied, part, sizes):
    settings = json.loads((copied / "config.json").read_text())
    rewrite(copied / "config.json", **{part: settings[part] | sizes})
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_backbone(str(copied))


def test_a_chat_template_cannot_reach_python(copied, marker):
    way_out = f"{{{{ cycler.__init__.__globals__.os.mkdir({str(marker)!r}) }}}}"
    (copied / "chat_template.jinja").write_text(way_out)
    tokenizer = load_backbone(str(copied)).tokenizer
    with pytest.raises(Exception, match="is unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
