"""What is shipped under experiments/: every configuration parses, and says what it is to."""

import pytest
import yaml

from datamodules import benchmarks
from tests.conftest import CONFIGS, REPOSITORY

STAGES = [
    str(path.relative_to(REPOSITORY))
    for folder in ("align", "tune", "own_modality")
    for path in sorted((REPOSITORY / "experiments" / folder).glob("*.yaml"))
]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("backbone", ["miniature", "llava_ov_0.5b", "llava_ov_7b"])
def test_every_shipped_configuration_parses(vlynx, backbone, stage):
    code, out = vlynx(
        "fit",
        f"--config=experiments/backbones/{backbone}.yaml",
        f"--config={stage}",
        "--print_config",
    )
    assert code == 0, out
    path = yaml.safe_load(out)["backbone"]["init_args"]["path"]
    assert (
        path
        == {
            "miniature": "experiments/miniature",
            "llava_ov_0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
            "llava_ov_7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        }[backbone]
    )


RECIPES = {
    path.stem: yaml.safe_load(path.read_text())["model"]["init_args"]
    for path in (REPOSITORY / "experiments/align/recipes").glob("*.yaml")
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_changes_the_losses_and_nothing_else(vlynx, recipe):
    _, plain = vlynx("fit", *CONFIGS, "--print_config")
    code, out = vlynx(
        "fit", *CONFIGS, f"--config=experiments/align/recipes/{recipe}.yaml", "--print_config"
    )
    assert code == 0, out
    config, wanted = yaml.safe_load(out), yaml.safe_load(plain)
    wanted["model"]["init_args"] |= RECIPES[recipe]
    assert config == wanted


TOYWORLD = [
    (f"experiments/tune/{task}.yaml", f"experiments/tune/toyworld/{task}.yaml")
    for task in sorted(path.stem for path in (REPOSITORY / "experiments/tune").glob("*.yaml"))
    if task != "pave"  # a method, not a task
]
LLAVA_VIDEO = next(pair for pair in TOYWORLD if "llava_video" in pair[0])
EVALUATIONS = [
    (*LLAVA_VIDEO, f"experiments/eval/{task}.yaml", f"experiments/eval/toyworld/{task}.yaml")
    for task in sorted(path.stem for path in (REPOSITORY / "experiments/eval").glob("*.yaml"))
]


@pytest.mark.parametrize("configs", [*TOYWORLD, *EVALUATIONS], ids=lambda configs: configs[-1])
def test_every_task_of_the_toy_world_parses(vlynx, configs):
    given = [f"--config={config}" for config in configs]
    code, out = vlynx("test", CONFIGS[0], *given, "--print_config")
    assert code == 0, out
    config = yaml.safe_load(out)
    assert config["model"]["init_args"]["lora"] == {
        "rank": 16, "alpha": 16, "dropout": 0.0, "use_rslora": False, "use_dora": False
    }  # fmt: skip
    benchmark = config["data"]["init_args"]["benchmark"]
    assert benchmark["init_args"]["annotations"].startswith("data/toyworld/")
    reader = getattr(benchmarks, benchmark["class_path"].split(".")[-1])(**benchmark["init_args"])
    split = config["data"]["init_args"]["test_split"]
    assert reader.files(split) or (split == "val" and not reader.files("test"))
    assert benchmark["class_path"].endswith(f".{reader.rules().benchmark}")


@pytest.mark.parametrize("configs", TOYWORLD, ids=lambda configs: configs[0])
def test_pave_takes_the_place_of_the_method_in_every_task(vlynx, configs):
    given = [f"--config={config}" for config in configs]
    plain, pave = (
        yaml.safe_load(vlynx("fit", CONFIGS[0], *given, *added, "--print_config")[1])
        for added in (
            (),
            ("--model.streams.modalities={a: b}", "--config=experiments/tune/pave.yaml"),
        )
    )
    model, other = pave.pop("model"), plain.pop("model")
    assert pave == plain, "all but the model is the task's"
    settings, kept = model["init_args"], other["init_args"]
    assert kept.pop("streams")["class_path"] == "vlynx_pl.streams.AlignedStreams"
    streams = settings.pop("streams")
    assert streams["class_path"] == "vlynx_pl.baselines.pave_streams.PatchedVideo"
    assert "modalities" not in streams["init_args"] and model == other
