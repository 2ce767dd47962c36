import subprocess
import sys

import pytest
import torch

from tests.conftest import MINIATURE
from vlynx_pl.adapters import AdapterError, Lora, save_adapter
from vlynx_pl.saved_adapters import saved_config

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


def test_no_name_of_an_adapter_unfreezes_the_base(backbone):
    backbone.add_vision_adapter("encoder", Lora(4, 8))
    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)


@pytest.fixture
def adapted(backbone):
    """The miniature with an adapter "3d" that is not zero."""
    backbone.add_vision_adapter("3d", Lora(8, 16))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    return backbone


def test_a_saved_adapter_loads_with_plain_peft(adapted, videos, tmp_path):
    save_adapter(adapted.vision_adapters, "3d", tmp_path / "vision-3d")
    torch.save(adapted.normalise(videos), tmp_path / "pixels.pt")
    paths = [MINIATURE, tmp_path / "vision-3d", tmp_path / "pixels.pt", tmp_path / "tokens.pt"]
    subprocess.run([sys.executable, "-c", PLAIN_PEFT, *map(str, paths)], check=True, cwd=tmp_path)
    tokens = torch.load(tmp_path / "tokens.pt", weights_only=True)[:, :-1]
    assert torch.equal(tokens, adapted.encode(videos, "3d").flatten(1, 2))
    names = {file.name for file in (tmp_path / "vision-3d").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert not any(name.endswith((".bin", ".pt")) for name in names)


def test_saving_again_replaces_the_folder_as_a_whole(adapted, tmp_path):
    folder = tmp_path / "vision-3d"
    for _ in range(2):
        save_adapter(adapted.vision_adapters, "3d", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["vision-3d"]
    assert (folder / "adapter_model.safetensors").exists()


def test_only_the_named_adapter_is_saved(adapted, tmp_path):
    adapted.add_vision_adapter("audio", Lora(4, 8))
    save_adapter(adapted.vision_adapters, "3d", tmp_path / "3d")
    assert not (tmp_path / "3d" / "audio").exists()


def test_an_adapter_comes_back_whole(adapted, backbone, tmp_path, videos):
    wanted = adapted.encode(videos, "3d")
    save_adapter(adapted.vision_adapters, "3d", tmp_path / "3d")
    adapted.load_vision_adapter("again", saved_config(tmp_path / "3d"))
    assert torch.equal(adapted.encode(videos, "again"), wanted)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "cannot be read as a PEFT adapter"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:500]),
            "cannot be read as a PEFT adapter",
        ),
    ],
)
def test_a_damaged_adapter_is_one_clear_error(adapted, tmp_path, damage, message):
    save_adapter(adapted.vision_adapters, "3d", tmp_path / "3d")
    damage(tmp_path / "3d" / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=message) as error:
        adapted.load_vision_adapter("again", saved_config(tmp_path / "3d"))
    assert str(tmp_path / "3d") in str(error.value)


def test_an_adapter_of_another_part_is_refused(adapted, tmp_path):
    save_adapter(adapted.vision_adapters, "3d", tmp_path / "3d")
    with pytest.raises(AdapterError, match=r"made for another model, .* such as encoder\.layers"):
        adapted.load_llm_adapter("task", saved_config(tmp_path / "3d"))
