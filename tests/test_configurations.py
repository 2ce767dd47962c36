"""The configurations under experiments/: each is accepted and sets what it should."""

import pytest
import yaml

from datamodules import benchmarks
from datamodules.benchmarks.base import Benchmark
from tests.conftest import CONFIGS, REPOSITORY
from vlynx_pl.backbones import backbone_without_weights


def names(folder):
    return sorted(path.stem for path in (REPOSITORY / "experiments" / folder).glob("*.yaml"))


MODALITIES, TUNED, EVALUATED = names("align"), names("tune"), names("eval")


@pytest.fixture
def assembled(vlynx):
    """A function: command → its configuration, and the arguments of its model and data."""

    def assemble(*command):
        code, out = vlynx(*command, "--print_config")
        assert code == 0, out
        config = yaml.safe_load(out)
        return config, config["model"]["init_args"], config["data"]["init_args"]

    return assemble


@pytest.mark.parametrize("modality", MODALITIES)
def test_align_on_the_toy_world(assembled, modality):
    config, model, data = assembled("align", modality)
    assert config["backbone"]["init_args"]["path"] == "experiments/miniature"
    assert config["run"] == f"runs/{modality}-miniature-toyworld"
    assert (model["modality"], model["lora"]["rank"], data["batch_size"]) == (modality, 16, 16)
    assert data["root"] == f"data/toyworld/{modality}"
    assert config["trainer"]["max_epochs"] == (1 if modality == "3d" else 2)


@pytest.mark.parametrize(("backbone", "rate"), [("llava_ov_0.5b", 2e-5), ("llava_ov_7b", 5e-4)])
@pytest.mark.parametrize("modality", MODALITIES)
def test_align_on_own_data_has_the_schedule_of_the_paper(assembled, modality, backbone, rate):
    config, model, data = assembled("align", modality, "--backbone", backbone, "--data=/d/mine/")
    assert config["backbone"]["init_args"]["path"].startswith("llava-hf/llava-onevision-qwen2-")
    assert config["run"] == f"runs/{modality}-{backbone}-mine"
    assert (data["root"], data["batch_size"], data["frames"]) == ("/d/mine", 8, 20)
    assert (model["lora"]["rank"], model["lora"]["alpha"]) == (64, 128)
    assert model["learning_rate"] == rate
    trainer = config["trainer"]
    assert (trainer["max_epochs"], trainer["gradient_clip_val"]) == (10, 1.0)
    assert (trainer["accelerator"], trainer["precision"]) == ("gpu", "bf16-mixed")


BACKBONES = sorted(name for name in names("backbones") if not name.startswith("miniature"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_trained_on_a_gpu_at_its_default_side(assembled, backbone):
    config, model, _ = assembled("align", "3d", "--backbone", backbone, "--data=/d/mine/")
    settings = config["backbone"]["init_args"]
    real = backbone_without_weights(settings["path"])
    assert (settings["dtype"], settings["side"]) in {("bfloat16", None), ("bfloat16", real.side)}
    assert config["trainer"]["precision"] == "bf16-mixed" and model["lora"]["rank"] == 64
    assert config["run"] == f"runs/3d-{backbone}-mine"


def modalities_of(model):
    return model["streams"]["init_args"]["modalities"]


def reader_of(data):
    settings = data["benchmark"]
    kind = getattr(benchmarks, settings["class_path"].rpartition(".")[2])
    return kind(**settings["init_args"])


@pytest.mark.parametrize("task", TUNED)
def test_tune_on_the_toy_world(assembled, task):
    config, model, data = assembled("tune", task)
    reader = reader_of(data)
    aligned = f"runs/{reader.modality}-miniature-toyworld/adapters/vision-{reader.modality}"
    assert config["run"] == f"runs/{task}-miniature-toyworld"
    assert modalities_of(model) == {reader.modality: aligned}
    assert (model["task"], model["lora"]["rank"], model["learning_rate"]) == (task, 16, 3e-3)
    assert data["root"] == f"data/toyworld/{reader.modality}"
    assert str(reader.annotations).startswith("data/toyworld/")


@pytest.mark.parametrize("task", TUNED)
def test_tune_on_own_data_has_the_schedule_of_the_paper(assembled, task):
    given = ["--data=/d/mine", "--annotations=/a", "--backbone=llava_ov_7b", "--aligned=/al"]
    config, model, data = assembled("tune", task, *given)
    reader = reader_of(data)
    assert config["run"] == f"runs/{task}-llava_ov_7b-mine"
    assert modalities_of(model) == {reader.modality: f"/al/adapters/vision-{reader.modality}"}
    assert (model["lora"]["rank"], model["lora"]["alpha"], model["learning_rate"]) == (64, 16, 1e-4)
    assert (data["root"], str(reader.annotations), data["frames"]) == ("/d/mine", "/a", 20)
    assert config["trainer"]["precision"] == "bf16-mixed"


@pytest.mark.parametrize("task", [*TUNED, *EVALUATED])
def test_eval_on_the_toy_world(assembled, task):
    config, model, data = assembled("eval", task)
    reader = reader_of(data)
    tuned = reader.tuned_on or task
    assert (task in EVALUATED) == (tuned != task) and tuned in TUNED
    run = f"runs/{tuned}-miniature-toyworld"
    assert config["run"] == f"{run}/eval-{task}"
    assert (model["llm_adapter"], model["lora"]["rank"]) == (f"{run}/adapters/llm-{tuned}", 16)
    split = data["test_split"]
    assert reader.files(split) or (split == "val" and not reader.files("test"))
    assert reader.rules().benchmark == type(reader).__name__


def test_every_benchmark_has_a_configuration():
    configured = {
        yaml.safe_load((REPOSITORY / f"experiments/{folder}/{name}.yaml").read_text())["data"][
            "init_args"
        ]["benchmark"]["class_path"]
        for folder, tasks in (("tune", TUNED), ("eval", EVALUATED))
        for name in tasks
    }
    scored = {each for each in vars(benchmarks).values() if isinstance(each, type)}
    scored = {each.__name__ for each in scored if issubclass(each, Benchmark) and each.protocol}
    assert configured == {f"datamodules.benchmarks.{name}" for name in scored}


def test_given_options_take_precedence(assembled, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {init_args: {lora: {rank: 4, alpha: 4}}}\n")
    more = [f"--config={tmp_path}/mine.yaml", "--model.lora.rank=2", "--trainer.max_epochs", "9"]
    config, model, _ = assembled("align", "3d", "--seed=7", "--runs=mine", *more)
    assert (model["lora"]["rank"], model["lora"]["alpha"]) == (2, 4)
    assert config["trainer"]["max_epochs"] == 9
    assert config["run"] == "mine/3d-miniature-toyworld-seed7" and config["seed_everything"] == 7
    config, model, _ = assembled("tune", "scanqa", "--run=there", "--seed=7", "--runs=mine")
    aligned = "mine/3d-miniature-toyworld-seed7/adapters/vision-3d"
    assert config["run"] == "there" and modalities_of(model) == {"3d": aligned}
    config, model, _ = assembled("eval", "mlvu", "--tuned=there", "--model.streams.modalities={}")
    assert config["run"] == "there/eval-mlvu" and modalities_of(model) == {}


def test_a_benchmark_without_training_questions_is_tuned_on_another_task(assembled):
    assert assembled("tune", "mlvu") == assembled("tune", "llava_video")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "align sound",
            "align/sound.yaml does not exist; give one of 3d, audio, ego, events, highfps",
        ),
        ("tune nextqa", "tune/nextqa.yaml does not exist; give one of avqa, avsd, avut, egoexo"),
        (
            "eval scanqa --backbone=gpt",
            "backbones/gpt.yaml does not exist; give one of internvl2_5_4b, internvl3_1b",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(vlynx, command, message):
    code, said = vlynx(*command.split())
    assert code == 1 and f"Error: experiments/{message}" in said


def test_outside_the_checkout_it_says_where_to_run(vlynx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = vlynx("align", "3d")
    assert code == 1 and "run vlynx where experiments/ is" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: [", "mine.yaml, line 1"),
        ("data: {init_args: {}}", "does not name a benchmark with a modality"),
    ],
)
def test_a_users_task_needs_a_benchmark(vlynx, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "tune").mkdir(parents=True)
    (tmp_path / "experiments" / "tune" / "mine.yaml").write_text(content)
    code, said = vlynx("tune", "mine")
    assert code == 1 and message in " ".join(said.split()) and "Traceback" not in said


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


def test_the_pave_baseline_changes_the_streams_and_nothing_else(assembled):
    given = "--model.streams.modalities={a: b}", "--config=experiments/tune/baselines/pave.yaml"
    plain, pave = assembled("tune", "scanqa")[0], assembled("tune", "scanqa", *given)[0]
    model, other = pave.pop("model"), plain.pop("model")
    assert pave == plain
    settings, kept = model["init_args"], other["init_args"]
    assert kept.pop("streams")["class_path"] == "vlynx_pl.streams.AlignedStreams"
    streams = settings.pop("streams")
    assert streams["class_path"] == "vlynx_pl.baselines.pave_streams.PatchedVideo"
    assert "modalities" not in streams["init_args"] and model == other
