"""``vlynx analyse RUN`` on small scenes, and on runs that nobody fitted."""

import json
import shutil

import pytest
import torch
import yaml

from tests.datamodules.conftest import write_scannet_scenes, write_scanqa
from tests.vlynx_pl.conftest import config_of, load_miniature, randomise, saved, tuning
from vlynx_pl.adapters import Lora, save_adapter
from vlynx_pl.baselines.pave_streams import PatchedVideo
from vlynx_pl.guidance import estimate_guidance

FILES = ["interface.json", "interface.md", "interface.png", "layers.png", "names.png"]
STREAMS = ["video", "3d before", "3d after"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Scenes with questions, adapters and guidance."""
    root = tmp_path_factory.mktemp("world")
    write_scannet_scenes(root, 9)
    (root / "scannetv2_train.txt").write_text("scene0000_00\nscene0001_00\n")
    held_out = [f"scene000{number}_00" for number in range(2, 9)]
    (root / "scannetv2_val.txt").write_text("\n".join(held_out))
    write_scanqa(root, "val", [(number, f"q{number}", "What is it?") for number in range(2, 6)])
    backbone = load_miniature()
    noise = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    estimate_guidance(backbone, [noise]).save(root / "guidance.safetensors")
    backbone.add_vision_adapter("3d", Lora(4, 8))
    randomise(backbone.vision_adapters, "3d", 0.2)
    save_adapter(backbone.vision_adapters, "3d", root / "vision-3d")
    backbone.add_llm_adapter("qa", Lora(4, 16))
    save_adapter(backbone.llm_adapters, "qa", root / "llm-qa")
    return root


@pytest.fixture
def aligned(world, tmp_path):
    """Writes an alignment run: data settings → folder."""

    def write(**settings):
        folder = tmp_path / "run"
        shutil.copytree(world / "vision-3d", folder / "adapters" / "vision-3d")
        shutil.copy(world / "guidance.safetensors", folder)
        made = {"objective": "alignment", "benchmark": None, "num_workers": 0, "root": str(world)}
        config = config_of("DepthDataModule", **made | settings)
        alignment = {"class_path": "vlynx_pl.alignment.InterfaceAlignment"}
        config["model"] = alignment | {"init_args": {"modality": "3d"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return write


@pytest.fixture
def tuned(world, tmp_path):
    """Writes a tuned run: the adapter of its modality, and its streams' class → folder."""

    def write(adapter, kind="vlynx_pl.streams.AlignedStreams"):
        folder = tmp_path / "tuned"
        shutil.copytree(world / "llm-qa", folder / "adapters" / "llm-qa")
        made = {"root": str(world), "test_split": "val", "frames": 2, "num_workers": 0}
        config = config_of("DepthDataModule", "3d", **made)
        config["data"]["init_args"]["benchmark"] = {
            "class_path": "datamodules.benchmarks.ScanQA",
            "init_args": {"annotations": str(world)},
        }
        settings = {"modalities": {"3d": adapter}} if "Aligned" in kind else {"side": "3d"}
        config["model"]["init_args"]["streams"] = {"class_path": kind, "init_args": settings}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return write


def found_in(run):
    return json.loads((run / "analysis" / "interface.json").read_text())


def test_an_alignment_is_measured_the_same_twice(vlynx, aligned):
    run = aligned()
    code, said = vlynx("analyse", run)
    assert code == 0, said
    assert sorted(path.name for path in (run / "analysis").iterdir()) == FILES
    first = {name: (run / "analysis" / name).read_bytes() for name in FILES}
    found = found_in(run)
    assert list(found["geometry"]) == ["vocabulary", *STREAMS]
    assert list(found["streams"]) == STREAMS
    assert found["left_out"] == []
    assert len(found["distances"]) == 2 * 6
    for name, one in found["streams"].items():
        assert (one["clips"], one["frames"]) == (7, 7 * 3)
        assert sum(one["names"].values()) <= 1 + 1e-9
        assert found["geometry"][name]["tokens"]["rows"] == 7 * 3 * 16
        assert found["geometry"][name]["frames"]["rows"] == 7 * 3
        assert ("own_video" in one) == (name != "video")
    assert found["streams"]["3d after"]["own_video"]["clips"] == 7
    assert found["streams"]["video"]["variance_per_layer"]["keys"] == [1.0] * 4
    assert found["streams"]["3d before"]["names"] != found["streams"]["3d after"]["names"]
    for part in ("Geometry", "Landing", "Names", "Layers", "guidance's mean token", "of 7"):
        assert part in said and part in (run / "analysis" / "interface.md").read_text()
    assert vlynx("analyse", "run", run)[0] == 0
    assert {name: (run / "analysis" / name).read_bytes() for name in FILES} == first


def test_few_frames_and_words_suffice(vlynx, aligned):
    run = aligned()
    assert vlynx("analyse", run, "--frames=4", "--vocabulary=30", f"--out={run}/few")[0] == 0
    found = json.loads((run / "few" / "interface.json").read_text())
    assert found["geometry"]["vocabulary"]["tokens"]["rows"] == 30
    assert {one["clips"] for one in found["streams"].values()} == {2}
    assert not (run / "analysis").exists()


def test_videos_of_other_clips_have_no_retrieval(vlynx, aligned, world):
    run = aligned(reference_root=str(world))
    code, said = vlynx("analyse", run)
    assert code == 0, said
    found = found_in(run)
    assert all("own_video" not in one for one in found["streams"].values())
    assert "retrieval and CKA" in " ".join(found["left_out"])
    assert found["streams"]["video"]["clips"] == 2, "one per training scene"
    assert found["streams"]["3d after"]["clips"] == 7 * 4, "one per frame"


def test_what_is_left_without_data_is_computed_and_the_rest_is_listed(vlynx, aligned, tmp_path):
    run = aligned(root=str(tmp_path / "gone"))
    code, said = vlynx("analyse", run)
    assert code == 0, said
    found = found_in(run)
    assert list(found["geometry"]) == ["vocabulary"]
    assert found["streams"] == {} and found["name_of_guidance_mean"]
    [reason] = found["left_out"]
    assert reason.startswith("all streams: ") and "gone" in reason
    assert "Left out" in said
    assert not list((run / "analysis").glob("*.png"))


def test_a_damaged_clip_and_a_missing_adapter_are_left_out_and_named(
    vlynx, aligned, world, tmp_path
):
    root = tmp_path / "damaged"
    shutil.copytree(world, root)
    for path in (root / "scans" / "scene0004_00" / "color").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    run = aligned(root=str(root))
    shutil.rmtree(run / "adapters")
    code, said = vlynx("analyse", run)
    assert code == 0, said
    found = found_in(run)
    assert list(found["streams"]) == STREAMS[:2]
    assert found["streams"]["video"]["clips"] == 6
    adapter, clip = found["left_out"]
    assert "vision-3d does not exist" in adapter
    assert "scene0004_00" in clip


def test_a_tuned_run_is_measured_on_the_clips_that_it_is_tested_on(vlynx, tuned, world):
    run = tuned(str(world / "vision-3d"))
    code, said = vlynx("analyse", run)
    assert code == 0, said
    found = found_in(run)
    assert list(found["streams"]) == STREAMS
    assert {one["frames"] for one in found["streams"].values()} == {4 * 2}
    assert found["streams"]["3d before"]["cka"] is not None


def test_a_modality_that_the_base_encoder_reads_has_one_row(vlynx, tuned):
    run = tuned("base")
    assert vlynx("analyse", run)[0] == 0
    assert list(found_in(run)["streams"]) == STREAMS[:2]


def test_a_stream_of_few_names_is_warned_about(vlynx, aligned, monkeypatch):
    monkeypatch.setattr("vlynx_pl.commands.analyse.run._POOR", 10.0)
    code, said = vlynx("analyse", aligned())
    assert code == 0, said
    assert "3d before: its entropy of names is" in " ".join(said.split())


@pytest.mark.parametrize(
    ("kind", "message"),
    [("nothing", "give a folder that vlynx align or vlynx tune has written"), ("pave", "PatchedV")],
)
def test_other_folders_are_refused(vlynx, tuned, tmp_path, kind, message):
    run = tmp_path
    if kind == "pave":
        run = tuned("base", "vlynx_pl.baselines.pave_streams.PatchedVideo")
        shutil.rmtree(run / "adapters")
        saved(tuning(PatchedVideo("3d")), run / "adapters")
    code, said = vlynx("analyse", run)
    assert code == 1
    assert message in " ".join(said.split())
