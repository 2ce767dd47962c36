"""What README and docs show must work as it stands."""

import ast
import inspect
import re
import shlex
from functools import cache

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from torch.testing import assert_close

from datamodules import (
    AudioDataModule,
    DepthDataModule,
    EgoDataModule,
    HighFrameRateDataModule,
)
from datamodules.benchmarks import MVBench
from tests.conftest import REPOSITORY
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.objectives import AlignmentObjective
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

DOCS = REPOSITORY / "docs"
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text()
    for path in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS.glob("*.md"))
}
each_page = pytest.mark.parametrize("page", PAGES)
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def blocks(language, page):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def commands(page):
    """The commands of a page's shell blocks, as lists of words without comments."""
    for block in blocks("sh", page):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(re.sub(r"<[^>]+>", "PLACE", line), comments=True):
                yield words


@cache
def sentences():
    """Every string of the product's code, f-strings with `…` for what is filled in."""
    found = [MAKEFILE]
    for package in ("vlynx_pl", "datamodules", "callbacks"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (getattr(part, "value", "…") for part in node.values)
                    found.append("".join(p if isinstance(p, str) else "…" for p in parts))
    return "\n".join(found)


def test_the_python_examples_run(monkeypatch, tmp_path, videos):
    monkeypatch.chdir(REPOSITORY)
    method, plain = blocks("python", "docs/python.md")
    assert blocks("python", "README.md") == [method]
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


@each_page
def test_its_configurations_are_accepted(page):
    for block in blocks("yaml", page):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(LightningDataModule, "data")
        parser.instantiate_classes(parser.parse_object(yaml.safe_load(block)))


def test_the_example_of_a_modality_is_the_real_one():
    [shown] = blocks("python", "docs/extending.md")
    code = (REPOSITORY / "datamodules" / "gallery" / "imu.py").read_text()
    for line in shown.splitlines():
        bare = line.split("  #")[0].strip()
        assert bare in code or bare == "...", line


@each_page
def test_its_shell_blocks_name_targets_scripts_and_files_that_exist(page):
    for words in commands(page):
        program, *rest = words
        for word in rest:
            if word.startswith("experiments/"):
                assert (REPOSITORY / word.rstrip(")")).exists(), word
        if program == "make":
            for word in rest:
                assert "=" in word or word.startswith("data/") or is_target(word), words
        elif program.endswith("vlynx"):
            assert is_command(rest[0]), words
        elif program.endswith("pytest"):
            assert (REPOSITORY / rest[0]).exists(), words
        else:
            assert program in ("sudo", "git") or "sbatch" in words or "$(sbatch" in words[0], words


def is_target(name):
    return re.search(rf"^{re.escape(name)}:", MAKEFILE, re.MULTILINE)


def is_command(name):
    from vlynx_pl.commands.cli import app

    names = [c.name or c.callback.__name__ for c in app.registered_commands]
    return name in names or name in [group.name for group in app.registered_groups]


@each_page
def test_the_commands_files_and_links_in_its_text_exist(page):
    text = PAGES[page]
    for line in re.findall(r"`make ([a-z -]+)", text):
        for target in line.split():
            assert is_target(target), target
    for command in re.findall(r"`(?:\.venv/bin/)?vlynx ([a-z]+)", text):
        assert is_command(command), command
    for path in re.findall(r"experiments/[\w./-]+\w", text):
        assert (REPOSITORY / path).exists(), path
    folder = (REPOSITORY / page).parent
    for link in re.findall(r"(?:\]\(|src=\")(?!https?:|#)([^)#\"]+)", text):
        assert (folder / link).exists(), link


OPTIONS = {
    "data": [AudioDataModule, DepthDataModule, EgoDataModule, HighFrameRateDataModule],
    "data.benchmark.init_args": [MVBench],
    "model": [InterfaceAlignment, InstructionTuning],
    "model.lora": [Lora],
    "model.objective": [AlignmentObjective],
    "model.streams": [AlignedStreams, PatchedVideo],
}


@each_page
def test_the_options_it_names_exist(page):
    for option in re.findall(r"--((?:data|model)[\w.]*\w)", PAGES[page]):
        group, _, name = option.rpartition(".")
        if group:
            known = (inspect.signature(kind).parameters for kind in OPTIONS[group])
            assert any(name in names for names in known), option


def test_the_messages_of_troubleshooting_are_ours():
    rows = re.findall(r"^\| `([^`]+)` \|", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        for part in filter(None, (part.strip() for part in row.split("…"))):
            assert part in sentences(), part
