"""Questions to tuned runs about any files; the runs' annotation files are gone."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from datamodules import Audio, Depth, DepthDataModule, Ego, HighFrameRate
from datamodules.benchmarks import ScanQA
from datamodules.loading.given import GivenFiles
from datamodules.modalities.ego import Take
from datamodules.modalities.modality import FrameSpec
from datamodules.modalities.video import VideoSource
from tests.conftest import MINIATURE, replace_meteor
from tests.datamodules.conftest import write_scannet_scene, write_scannet_scenes
from tests.vlynx_pl.conftest import film, load_miniature, randomise, write_run
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.commands import cli, lightning_cli
from vlynx_pl.commands.asking import open_run, read_configuration
from vlynx_pl.io.errors import UserError
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning

EXPERIMENTS = MINIATURE.parent
SIZE = (64, 64)
SPEC = FrameSpec(3, SIZE)
QUESTION = "What colour is the box?"


def aligned(folder: Path) -> str:
    """A vision adapter that is not zero."""
    backbone = load_miniature()
    backbone.add_vision_adapter("3d", Lora(4, 8))
    randomise(backbone.vision_adapters, "3d", 0.2)
    save_adapter(backbone.vision_adapters, "3d", folder)
    return str(folder)


def ask_scenes(folder: Path) -> Path:
    for split, scene in (("train", "scene0000_00"), ("val", "scene0001_00")):
        record = {"scene_id": scene, "question_id": split, "question": QUESTION, "answers": ["red"]}
        (folder / f"ScanQA_v1.0_{split}.json").write_text(json.dumps([record]))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Scenes, a tuned run on them, and no annotations any more."""
    root = tmp_path_factory.mktemp("world")
    write_scannet_scenes(root, 2)
    ask_scenes(root)
    config = yaml.safe_load((EXPERIMENTS / "tune" / "scanqa.yaml").read_text())
    config["trainer"] = {
        "max_epochs": 1,
        "callbacks": [{"class_path": "callbacks.AdapterCheckpoint"}],
    }
    config["model"]["init_args"] |= {
        "streams": {
            "class_path": "vlynx_pl.streams.AlignedStreams",
            "init_args": {"modalities": {"3d": aligned(root / "vision-3d")}},
        },
        "lora": {"rank": 4, "alpha": 16},
    }
    config["data"]["init_args"] |= {"root": str(root), "num_workers": 0, "frames": 3}
    config["data"]["init_args"]["benchmark"]["init_args"]["annotations"] = str(root)
    (root / "tune.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        replace_meteor(patch)
        given = [EXPERIMENTS / "backbones" / "miniature.yaml", root / "tune.yaml"]
        configs = [f"--config={path}" for path in given]
        patch.chdir(EXPERIMENTS.parent)
        lightning_cli.run(["fit", *configs, f"--run={root}/run"])
    unlearnt = root / "run" / "adapters" / "llm-scanqa" / "adapter_model.safetensors"
    torch.manual_seed(1)  # one step has taught next to nothing
    save_file({k: v + 0.2 * torch.randn_like(v) for k, v in load_file(unlearnt).items()}, unlearnt)
    for path in root.glob("ScanQA*"):
        path.unlink()
    return root


@pytest.fixture
def vlynx_ask(monkeypatch, capsys):
    """Runs ``vlynx ask`` in this process: (run, arguments) → (exit code, stdout, stderr)."""

    def run(folder: Path, *arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setattr(sys, "argv", ["vlynx", "ask", f"--run={folder}", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return run


@pytest.fixture
def tuned(tmp_path, untaught):
    """Writes a run without fitting: (data module, modalities, its settings) → folder."""

    def write(data: str, *modalities: str, **settings: object) -> Path:
        return write_run(tmp_path / "run", untaught, data, *modalities, **settings)

    return write


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].pixels, other[name].pixels) and one[name].times == other[name].times
        for name in one
    )


def test_the_answer_is_the_runs_own_on_its_own_streams(world, vlynx_ask, tmp_path):
    scene = world / "scans" / "scene0001_00"
    code, said, shown = vlynx_ask(world / "run", f"--depth={scene}", QUESTION)
    assert code == 0, shown
    config = yaml.safe_load((world / "run" / "config.yaml").read_text())["model"]["init_args"]
    config["llm_adapter"] = str(world / "run" / "adapters" / "llm-scanqa")
    del config["lora"]  # the adapter's own counts
    config["streams"] = AlignedStreams(config["streams"]["init_args"]["modalities"])
    module = InstructionTuning(load_miniature(), **config).eval()
    data = DepthDataModule(
        world, benchmark=ScanQA(ask_scenes(tmp_path)), objective="tuning", frames=3,
        frame_size=SIZE, num_workers=0,
    )  # fmt: skip
    data.setup("fit")
    [episode] = next(iter(data.val_dataloader()))
    [expected] = module.answers(episode)
    assert expected and said == expected + "\n"
    first, *_, last = episode["times"]["video"]
    for name, reader in (("video", "base"), ("3d", f"{world}/vision-3d")):
        assert f"{name} │ 3 │ {first:.2f} to {last:.2f} │ 48 │ {reader} │" in shown


def test_vision_adapters_that_a_run_trained_are_used(tuned):
    run = tuned("AudioDataModule", "audio")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["streams"]["init_args"]["train_vision"] = True
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"vision-audio does not exist: .* not tuned to its end"):
        read_configuration(run)
    (run / "adapters" / "vision-audio").mkdir()
    settings = read_configuration(run)["model"]["init_args"]
    modalities = settings["streams"]["init_args"]["modalities"]
    assert modalities == {"audio": str(run / "adapters" / "vision-audio")}
    assert settings["llm_adapter"] == str(run / "adapters" / "llm-qa")


def test_streams_of_a_video_with_sound_are_those_of_training(tuned, tmp_path):
    video, other = film(tmp_path / "a.mp4"), film(tmp_path / "b.mp4", level=90)
    module, read = open_run(tuned("AudioDataModule", "audio", window=0.5))
    assert not module.training and module.backbone.frame_size == SIZE
    streams = read({"video": video, "audio": None, "depth": None, "ego": None})
    audio = Audio(window=0.5)
    own = audio.streams(VideoSource("a", video), SPEC).read()
    assert streams["times"]["audio"] == own["audio"].times == streams["times"]["video"]
    assert torch.equal(streams["streams"]["video"], own["video"].pixels)
    assert streams["streams"]["audio"].shape == (3, 3, *SIZE)
    mixed = audio.streams_from({"video": video, "audio": other}, SPEC, wanted=True)
    assert mixed.files == (video, other)
    foreign = audio.streams(VideoSource("b", other), SPEC).read()["audio"]
    assert same(mixed.read(), own | {"audio": foreign})


def test_an_unusable_file_is_named(tmp_path, tuned, vlynx_ask):
    mute, short = film(tmp_path / "mute.mp4", sound=False), film(tmp_path / "short.mp4", 0.5)
    run = tuned("AudioDataModule", "audio")
    code, said, shown = vlynx_ask(run, f"--video={mute}", "Is it loud?")
    assert (code, said) == (1, "")
    assert "mute.mp4: has no sound track. Add --audio, a file with its sound" in shown
    code, _, shown = vlynx_ask(run, f"--video={mute}", f"--audio={short}", "Is it loud?")
    assert code == 1 and "short.mp4: has sound for only a part of the video" in shown
    (tmp_path / "clip.mp4").write_bytes(b"no video" * 100)
    code, said, shown = vlynx_ask(run, f"--video={tmp_path}/clip.mp4", "Why?")
    assert (code, said) == (1, "")
    assert "Error:" in shown and "clip.mp4: " in shown and "Traceback" not in shown


def test_only_modalities_that_the_run_was_tuned_with_are_read(tmp_path):
    mute = film(tmp_path / "mute.mp4", sound=False)
    assert Audio().streams_from({"video": mute}, SPEC, wanted=False).read().keys() == {"video"}
    scene = write_scannet_scene(tmp_path / "scene0000_00")
    depth = Depth()
    both = depth.streams_from({"depth": scene}, SPEC, wanted=True).read()
    assert both.keys() == {"video", "3d"}
    for path in (scene / "depth").iterdir():
        path.write_bytes(path.read_bytes()[:60])  # a header without pixels
    alone = depth.streams_from({"depth": scene}, SPEC, wanted=False).read()
    assert same(alone, {"video": both["video"]})


def test_views_and_fast_frames_are_those_of_the_files(tmp_path):
    exo, ego = film(tmp_path / "out.mp4", level=10), film(tmp_path / "in.mp4", level=80)
    files = {"video": exo, "ego": ego}
    take = Take("take", tmp_path, (("exo1", exo), ("ego", ego)))
    expected = Ego().streams(take, SPEC).read()
    assert same(Ego().streams_from(files, SPEC, wanted=True).read(), expected)
    turned = Ego(rgb_views=("ego",), modality_views=("exo2",))
    streams = turned.streams_from(files, SPEC, wanted=True).read()
    assert torch.equal(streams["video"].pixels, expected["ego"].pixels)
    assert torch.equal(streams["ego"].pixels, expected["video"].pixels)
    fast = HighFrameRate()
    expected = fast.streams(VideoSource("out", exo), SPEC).read()
    assert same(fast.streams_from({"video": exo}, SPEC, wanted=True).read(), expected)


def several(**settings: object) -> dict:
    return {
        "modalities": [
            {"class_path": f"datamodules.{kind}", "init_args": settings}
            for kind in ("Depth", "Audio")
        ]
    }


def test_several_modalities_each_take_their_files(tuned, tmp_path):
    video = film(tmp_path / "a.mp4", seconds=6)
    scene = write_scannet_scene(tmp_path / "scene0000_00")
    run = tuned("ModalityDataModule", "3d", "audio", **several(frames=3))
    _, read = open_run(run)
    assert read({"depth": scene, "video": video})["streams"].keys() == {"video", "3d", "audio"}
    with pytest.raises(UserError, match="run needs --video, a video file; add it"):
        read({"depth": scene})


NEEDS = [
    ("AudioDataModule", ["audio"], {}, [], "needs --video, a video file; add it"),
    ("DepthDataModule", ["3d"], {}, ["video"], "needs --depth, the folder of a scene"),
    ("EgoDataModule", ["ego"], {}, ["video"], "needs --ego, the video of the person's own view"),
    ("DepthDataModule", ["3d"], {}, ["depth", "video"], "video and 3d, come from --depth"),
    ("AudioDataModule", [], {}, ["video", "audio"], "does not use --audio, leave it out"),
    ("ModalityDataModule", ["3d"], several(), ["depth", "audio"], "does not use --audio"),
]


@pytest.mark.parametrize(("data", "modalities", "settings", "options", "message"), NEEDS)
def test_missing_and_unused_files_are_named_before_a_model_is_loaded(
    tuned, tmp_path, vlynx_ask, monkeypatch, data, modalities, settings, options, message
):
    files = {name: film(tmp_path / f"{name}.mp4", 0.5) for name in ("video", "audio", "ego")}
    files["depth"] = write_scannet_scene(tmp_path / "scene0000_00")
    run = tuned(data, *modalities, **settings)
    monkeypatch.setattr("vlynx_pl.backbones.load_backbone", None)
    given = [f"--{option}={files[option]}" for option in options]
    code, said, shown = vlynx_ask(run, *given, "Why?")
    assert (code, said) == (1, "")
    assert message in shown and f"{run}" in shown


def test_missing_and_repeated_files_are_refused(tmp_path):
    film(tmp_path / "a.mp4", 0.5)
    with pytest.raises(
        UserError, match=r"--video .*b\.mp4: does not exist, or is not a video file"
    ):
        GivenFiles(tmp_path, {"video": tmp_path / "b.mp4"})
    with pytest.raises(UserError, match=r"--depth .*: does not exist, or is not the folder"):
        GivenFiles(tmp_path, {"depth": tmp_path / "a.mp4"})
    with pytest.raises(UserError, match="two options name the same file"):
        GivenFiles(tmp_path, {"video": tmp_path / "a.mp4", "audio": tmp_path / "." / "a.mp4"})


def test_folders_that_are_not_a_tuned_run_are_refused(tuned, tmp_path, vlynx_ask):
    code, _, shown = vlynx_ask(tmp_path / "none", "Why?")
    assert code == 1 and "none/config.yaml is not the configuration of a run" in shown
    run = tuned("AudioDataModule", "audio")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("model: [")
    assert "is not the configuration of a run" in vlynx_ask(run, "Why?")[2]
    (run / "config.yaml").write_text(text.replace("task: qa", "modality: audio"))
    assert "is not a tuned run, its model is vlynx_pl.tuning.Instr" in vlynx_ask(run, "Why?")[2]
    (run / "config.yaml").write_text(text.replace("frames: 3", "frams: 3"))
    shown = vlynx_ask(run, f"--video={film(tmp_path / 'a.mp4', 0.5)}", "Why?")[2]
    assert "the run's config.yaml cannot be used" in shown and "frams" in shown
    (run / "config.yaml").write_text(text)
    assert "the question is empty" in vlynx_ask(run, " ")[2]
    shutil.rmtree(run / "adapters")
    code, _, shown = vlynx_ask(run, "Why?")
    assert code == 1 and "llm-qa does not exist" in shown and "was not tuned to its end" in shown


def test_a_modality_without_ask_names_the_missing_method(tuned, vlynx_ask):
    run = tuned("ModalityDataModule", "imu", modalities=["imu"])
    assert "Imu cannot read files that a user names" in vlynx_ask(run, "Why?")[2]
