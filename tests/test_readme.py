"""What the README shows must work as it stands."""

import re

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from torch.testing import assert_close

from tests.conftest import REPOSITORY
from vlynx_pl.adapters import save_adapter

README = (REPOSITORY / "README.md").read_text()


def test_the_python_examples_run(monkeypatch, tmp_path, videos):
    monkeypatch.chdir(REPOSITORY)
    section = README[README.index("## In Python") :]
    method, plain = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    depth = 255 - videos
    names: dict[str, object] = {"batches": [videos], "depth_frames": depth}
    exec(method, names)
    backbone = names["backbone"]
    with torch.no_grad():
        for parameter in names["module"].parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.05)
    save_adapter(backbone.vision_adapters, "3d", tmp_path)
    exec(plain.replace("runs/3d-miniature-toyworld/adapters/vision-3d", str(tmp_path)), names)
    with torch.no_grad():
        pixels = backbone.normalise(depth)
        model = names["model"].float().eval()
        features = model.model.get_video_features(pixels, return_dict=True).pooler_output
        tokens = backbone.encode(depth, "3d").flatten(1, 2)
    assert_close(features[:, :-1], tokens, atol=1e-4, rtol=1e-4)


def test_the_configurations_are_accepted():
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data")
        parser.instantiate_classes(parser.parse_object(yaml.safe_load(block)))


def test_the_example_of_a_modality_is_the_real_one():
    [shown] = re.findall(r"```python\n(class Accel.*?)```", README, re.DOTALL)
    code = (REPOSITORY / "experiments" / "own_modality" / "accelerometer.py").read_text()
    for line in shown.splitlines():
        bare = line.split("  #")[0].strip()
        assert bare in code or bare == "...", line


def test_the_commands_and_files_it_names_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"experiments/[\w./-]+\w", README):
        assert (REPOSITORY / path).exists(), path
