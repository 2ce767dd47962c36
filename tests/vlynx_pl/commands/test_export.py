"""An exported run answers with transformers alone as the run itself does."""

import json
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

from tests.datamodules.conftest import write_scannet_scenes, write_scanqa
from tests.vlynx_pl.conftest import config_of, randomise
from vlynx_pl.adapters import Lora
from vlynx_pl.backbones import load_backbone
from vlynx_pl.backbones.tiny import write_tiny
from vlynx_pl.commands.asking import open_run
from vlynx_pl.commands.export.answer import FAMILIES, ExportedModel
from vlynx_pl.questions import Question
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"vlynx_pl", "datamodules", "callbacks", "peft"} & sys.modules.keys()
"""
QUESTION = "What colour is the wall?"


def tuned(root, backbone_path, dora=True, **settings):
    """A run that was tuned together with its vision adapter, with random weights."""
    run = root / "run"
    backbone = load_backbone(str(backbone_path), "float32")
    streams = AlignedStreams({"3d": "base"}, train_vision=True, lora=Lora(4, 8))
    module = InstructionTuning(backbone, "qa", streams, Lora(4, 8, use_dora=dora))
    randomise(backbone.vision_adapters, "3d", 0.2)
    randomise(backbone.llm_adapters, "qa", 0.2)
    made_with = {"fingerprint": backbone.fingerprint, **module.adapter_metadata()}
    module.save_adapters(run / "adapters", made_with)
    benchmark = {
        "class_path": "datamodules.benchmarks.ScanQA",
        "init_args": {"annotations": str(root)},
    }
    data = {"root": str(root), "num_workers": 0, "benchmark": benchmark}
    config = config_of("DepthDataModule", "3d", encoding="turbo+normals", **data)
    config["backbone"]["init_args"] |= {"path": str(backbone_path), **settings}
    config["model"]["init_args"] |= {"max_new_tokens": 8}
    config["model"]["init_args"]["streams"]["init_args"] |= {"train_vision": True}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A function that makes a folder of scenes with questions about them."""

    def made(name):
        root = tmp_path_factory.mktemp(name)
        write_scannet_scenes(root, 4)
        for split, scenes in (("train", (0, 1)), ("val", (2, 3))):
            asked = [(s, f"{split}-{s}-{i}", f"{QUESTION} {i}") for s in scenes for i in (0, 1)]
            write_scanqa(root, split, asked)
            listed = "".join(f"scene000{scene}_00\n" for scene in scenes)
            (root / f"scannetv2_{split}.txt").write_text(listed)
        return root

    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_run_answers_as_before_with_transformers_alone(vlynx, world, family, tmp_path):
    root = world(family)
    write_tiny(family, root / "tiny")
    run = tuned(root, root / "tiny", dora=family != "qwen2_5_vl")
    out, clip = tmp_path / "exported", tmp_path / "clip.safetensors"
    code, said = vlynx("export", run, out)
    assert code == 0 and "answers 4 of 4 validation questions exactly" in said, said
    compared = json.loads((out / "comparison.json").read_text())
    assert compared == {"questions": 4, "same": 4, "dtype": "float32", "different": []}
    vision = load_file(out / "vision-3d" / "model.safetensors")
    assert vision and not any("lora" in name for name in vision)

    scene = root / "scans" / "scene0003_00"
    code, said = vlynx("ask", QUESTION, f"--run={run}", f"--depth={scene}", f"--frames={clip}")
    assert code == 0
    command = [sys.executable, "-c", ALONE, out / "answer.py", clip, QUESTION]
    alone = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert alone.stdout.strip() and alone.stdout.strip() in said

    dialogue = (("Is it dark?", "no"), (QUESTION, None))
    module, read = open_run(run)
    asked = Question("d", QUESTION, (), history=dialogue[:1])
    before = module.answers({**read({"depth": scene}), "questions": [asked]})
    assert ExportedModel(out).answers(load_file(clip), [dialogue]) == before

    settings = json.loads((out / "streams.json").read_text())
    settings["encoders"]["3d"] = None
    (out / "streams.json").write_text(json.dumps(settings))
    assert ExportedModel(out).answers(load_file(clip), [dialogue]) != before, "adapters matter"


def test_what_cannot_be_exported_is_refused_by_name(vlynx, world, tmp_path, monkeypatch):
    root = world("refused")
    write_tiny("smolvlm", root / "tiny")
    run = tuned(root, root / "tiny")
    code, said = vlynx("export", run, tmp_path)
    assert code == 1 and "exists; give a new folder" in said
    code, said = vlynx("export", run, tmp_path / "out")
    assert code == 1 and "of the family smolvlm, which cannot be exported" in said
    monkeypatch.setattr("vlynx_pl.commands.export.exporting.open_run", None)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["backbone"]["init_args"]["quantization"] = "nf4"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    code, said = vlynx("export", run, tmp_path / "out")
    assert code == 1 and "has a quantized LLM (nf4)" in said
    fewer = {"modalities": {"3d": "base"}, "keep": {"3d": 1}}
    config["backbone"]["init_args"]["quantization"] = None
    config["model"]["init_args"]["streams"]["init_args"] = fewer
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    code, said = vlynx("export", run, tmp_path / "out")
    assert code == 1 and "keeps some tokens of its streams" in said
    pave = {"class_path": "vlynx_pl.baselines.pave_streams.PatchedVideo"}
    config["model"]["init_args"]["streams"] = pave | {"init_args": {"side": "3d"}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    code, said = vlynx("export", run, tmp_path / "out")
    assert code == 1 and "through PatchedVideo, which cannot be merged" in said
    assert list(tmp_path.iterdir()) == []
