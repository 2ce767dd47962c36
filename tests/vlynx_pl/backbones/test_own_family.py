"""Families of installed packages are found by entry point."""

import pytest
from transformers import LlavaConfig

from vlynx_pl.backbones import BackboneError, backbone_without_weights

OWN = """
from vlynx_pl.backbones.llava_onevision import LlavaOnevisionBackbone

class Llava(LlavaOnevisionBackbone):
    pass
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution ``own`` with an entry point: (model_type, class path)."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "llava_of_ours.py").write_text(OWN)

    def install(name: str, class_path: str) -> None:
        folder = tmp_path / "own-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own\n")
        (folder / "entry_points.txt").write_text(f"[vlynx.backbones]\n{name} = {class_path}\n")

    return install


@pytest.fixture
def folder(tmp_path):
    text = {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 300}
    vision = {"model_type": "clip_vision_model", "image_size": 28, "num_hidden_layers": 1}
    LlavaConfig(vision_config=vision, text_config=text).save_pretrained(tmp_path / "llava")
    return str(tmp_path / "llava")


def test_a_package_can_add_a_family(install, folder):
    with pytest.raises(BackboneError, match=r"no backbones have model_type 'llava'"):
        backbone_without_weights(folder)
    install("llava", "llava_of_ours:Llava")
    backbone = backbone_without_weights(folder)
    assert type(backbone).__name__ == "Llava" and backbone.frame_size == (28, 28)


def test_two_classes_for_a_model_type_are_refused(install, folder):
    install("llava_onevision", "llava_of_ours:Llava")
    with pytest.raises(BackboneError, match=r"2 backbones have model_type 'llava_onevision'"):
        backbone_without_weights("llava-hf/llava-onevision-qwen2-0.5b-ov-hf")
