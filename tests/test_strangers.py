"""Files from a stranger: nothing in them is executed, and each that is bad is one message.

What is in an adapter, a guidance, a cache, a checkpoint, a backbone or an annotation is data. The
configuration of a run names classes, those of the folder where the command is run included: what is
none of the right kind is not called, but its module is imported.
"""

import io
import json
import os
import pickle
import random
import shutil
import struct
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from datamodules.frame_cache import FrameCache
from datamodules.samples import BadSample, Frames
from tests.conftest import MINIATURE
from tests.datamodules.conftest import write_scannet_scene, write_scannet_scenes
from vlynx_pl import cli
from vlynx_pl.adapters import AdapterError, load_adapter, save_adapter, saved_config
from vlynx_pl.asking_command import ask, open_run, read_configuration
from vlynx_pl.backbones import BackboneError, load_backbone
from vlynx_pl.checkpoints import newest_checkpoint, read_checkpoint
from vlynx_pl.errors import UserError
from vlynx_pl.guidance import GuidanceError, InterfaceGuidance
from vlynx_pl.run_folder import RunFolderError, refuse_other_settings
from vlynx_pl.scoring_command import read_predictions
from vlynx_pl.token_store import Kept, TokenStore

REPOSITORY = Path(__file__).parents[1]
DEEP = b"[" * 200_000
LONG_HEADERS = [
    pytest.param(struct.pack("<Q", size) + b"{}", id=f"header of {size}")
    for size in (2**63 + 1, 2**40, 99_000_000)
]


class Weapon:
    """Leaves a marker where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(autouse=True)
def marker(tmp_path) -> Path:
    """What must not be there at the end of any test."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "something was executed"


@pytest.fixture
def weapon(marker) -> Weapon:
    return Weapon(marker)


@pytest.fixture
def pickled(weapon) -> bytes:
    return pickle.dumps(weapon)


def saved(what: object, **options: object) -> bytes:
    """As torch saves it."""
    buffer = io.BytesIO()
    torch.save(what, buffer, **options)
    return buffer.getvalue()


def test_the_weapons_work(weapon, pickled, marker):
    for load in (
        lambda: pickle.loads(pickled),
        lambda: torch.load(io.BytesIO(saved(weapon)), weights_only=False),
    ):
        load()
        marker.rmdir()


# Adapters


@pytest.fixture(scope="module")
def whole_adapter(tmp_path_factory):
    """The miniature with an adapter, and where that is saved."""
    backbone = load_backbone(str(MINIATURE), "float32")
    backbone.add_vision_adapter("3d", 4, 8)
    folder = tmp_path_factory.mktemp("adapters") / "3d"
    save_adapter(backbone.vision_adapters, "3d", folder, {"frames": {}})
    assert saved_config(folder).rank == 4
    return backbone, folder


@pytest.fixture
def adapted(whole_adapter, tmp_path):
    """The same in a folder that may be changed."""
    backbone, folder = whole_adapter
    return backbone, shutil.copytree(folder, tmp_path / "3d")


def test_weights_of_an_adapter_that_are_a_pickle(adapted, pickled, weapon):
    backbone, folder = adapted
    weights = folder / "adapter_model.safetensors"
    for content in (pickled, saved(weapon)):
        weights.write_bytes(content)
        with pytest.raises(AdapterError, match=r"cannot be read as a PEFT adapter .*too large"):
            load_adapter(backbone.vision_adapters, "3d", folder)
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"cannot be read as a PEFT adapter \(No such file"):
        load_adapter(backbone.vision_adapters, "3d", folder)


@pytest.mark.parametrize("content", LONG_HEADERS)
def test_weights_that_claim_a_long_header(adapted, content):
    backbone, folder = adapted
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match="cannot be read as a PEFT adapter"):
        load_adapter(backbone.vision_adapters, "3d", folder)


def settings(**changes: object) -> bytes:
    return json.dumps({"r": 4, "lora_alpha": 8, "lora_dropout": 0.0} | changes).encode()


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        b'{"a":' * 100_000,
        b"[]",
        b"null",
        b"\x80",
        b"",
        settings(r=[4]),
        settings(r="four"),
        settings(r=float("nan")),
        settings(r=float("inf")),
        settings(r=1e300),
        settings(lora_alpha={}),
        settings(lora_dropout=None),
        b'{"r": ' + b"9" * 5000 + b"}",
    ],
)
def test_settings_of_an_adapter_that_are_none(adapted, content):
    _, folder = adapted
    (folder / "adapter_config.json").write_bytes(content)
    with pytest.raises(AdapterError, match="3d is no PEFT adapter"):
        saved_config(folder)


@pytest.mark.parametrize("rank", [10**9, 5, 0, -4])
def test_a_rank_is_that_of_the_weights(adapted, rank):
    """Or else a few bytes would make the model as large as they like."""
    _, folder = adapted
    (folder / "adapter_config.json").write_bytes(settings(r=rank))
    with pytest.raises(AdapterError, match="3d is no PEFT adapter"):
        saved_config(folder)


@pytest.mark.parametrize("content", [DEEP, b"[1]", b'"ab"', b"3", b"{", b"\x80"])
def test_a_note_beside_an_adapter_that_is_none(adapted, content):
    _, folder = adapted
    (folder / "made_with.json").write_bytes(content)
    with pytest.raises(AdapterError, match="3d is no PEFT adapter"):
        saved_config(folder)


# Guidance, frames and tokens that are kept


def test_a_guidance_that_is_a_pickle(tmp_path, pickled, weapon):
    path = tmp_path / "guidance.safetensors"
    for content in (pickled, saved(weapon)):
        path.write_bytes(content)
        with pytest.raises(GuidanceError, match="cannot be used"):
            InterfaceGuidance.load(path)


@pytest.mark.parametrize("content", LONG_HEADERS)
def test_a_guidance_that_claims_a_long_header(tmp_path, content):
    path = tmp_path / "guidance.safetensors"
    path.write_bytes(content)
    with pytest.raises(GuidanceError, match="cannot be used"):
        InterfaceGuidance.load(path)


@pytest.mark.parametrize(
    "notes",
    [
        {"videos": DEEP.decode()},
        {"frame_size": DEEP.decode()},
        {"frame_size": "5"},
        {"videos": "5"},
        {"num_frames": "1e5"},
        {"num_frames": "9" * 5000},
    ],
)
def test_notes_of_a_guidance_that_are_none(tmp_path, notes):
    path = tmp_path / "guidance.safetensors"
    whole = {
        "format": "vlynx-guidance-1", "num_frames": "1", "num_videos": "1", "backbone": "b",
        "fingerprint": "f", "frame_size": "[1, 1]", "include_newline": "false", "videos": "[]",
    }  # fmt: skip
    tensors = {n: torch.zeros(1) for n in ("keys", "values", "token_mean", "token_var")}
    save_file(tensors, path, whole)
    InterfaceGuidance.load(path)
    save_file(tensors, path, whole | notes)
    with pytest.raises(GuidanceError, match="cannot be used"):
        InterfaceGuidance.load(path)


def test_kept_frames_that_are_a_pickle_are_made_again(tmp_path, pickled, weapon):
    cache = FrameCache(tmp_path / "cache", [])
    frames = {"frames": Frames(torch.ones(1, 3, 2, 2, dtype=torch.uint8), ())}
    cache.load("clip", "a", (), lambda: frames)
    [entry] = (tmp_path / "cache").rglob("*.safetensors")
    for content in (pickled, saved(weapon), struct.pack("<Q", 2**40)):
        entry.write_bytes(content)
        with pytest.warns(UserWarning, match="is made again"):
            again = cache.load("clip", "a", (), lambda: frames)
        assert torch.equal(again["frames"].pictures, frames["frames"].pictures)


def test_kept_tokens_that_are_a_pickle_are_refused(tmp_path, pickled, weapon):
    store = TokenStore(tmp_path / "store", {"video": "base"})
    store.save("clip", {"video": Kept(torch.zeros(1, 2, 3), (0.0,))})
    [entry] = (tmp_path / "store").rglob("*.safetensors")
    for content in (pickled, saved(weapon), struct.pack("<Q", 2**40)):
        entry.write_bytes(content)
        with pytest.raises(UserError, match="is no entry of a token store"):
            store.load("clip")


@pytest.mark.parametrize("times", [DEEP.decode(), "[1" + 400 * "0" + "]", "{", "[null]"])
def test_times_of_kept_tokens_that_are_none(tmp_path, times):
    store = TokenStore(tmp_path, {"video": "base"})
    store.save("clip", {"video": Kept(torch.zeros(1, 2, 3), (0.0,))})
    [entry] = tmp_path.rglob("*.safetensors")
    save_file({"tokens": torch.zeros(1, 2, 3)}, entry, {"made_by": "", "times": times})
    with pytest.raises(UserError, match="is no entry of a token store"):
        store.load("clip")


# Backbones


@pytest.fixture
def copied(tmp_path) -> Path:
    """The miniature in a folder that may be changed."""
    return shutil.copytree(MINIATURE, tmp_path / "backbone")


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_of_a_backbone_that_are_a_pickle(copied, weapon, pickled):
    weights = copied / "model.safetensors"
    weights.write_bytes(pickled)
    with pytest.raises(BackboneError, match="header too large"):
        load_backbone(str(copied))
    weights.unlink()
    (copied / "pytorch_model.bin").write_bytes(saved(weapon))
    with pytest.raises(BackboneError, match=r"no file named model\.safetensors"):
        load_backbone(str(copied))


@pytest.mark.parametrize("torch_made", [True, False])
def test_an_index_that_names_a_pickle(copied, weapon, pickled, torch_made):
    (copied / "model.safetensors").unlink()
    (copied / "weights.bin").write_bytes(saved(weapon) if torch_made else pickled)
    index = {"metadata": {}, "weight_map": {"model.image_newline": "weights.bin"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match="cannot be loaded"):
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
def test_a_backbones_own_code_is_not_run_nor_asked_for(copied, monkeypatch, marker, file, changes):
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
    "file", ["config.json", "processor_config.json", "tokenizer.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", [DEEP, b"[1]"])
def test_a_file_of_a_backbone_that_is_none(copied, file, content):
    (copied / file).write_bytes(content)
    with pytest.raises(BackboneError, match="cannot be loaded"):
        load_backbone(str(copied))


def test_a_chat_template_reaches_nothing_of_python(copied, marker):
    way_out = f"{{{{ cycler.__init__.__globals__.os.mkdir({str(marker)!r}) }}}}"
    (copied / "chat_template.jinja").write_text(way_out)
    tokenizer = load_backbone(str(copied)).tokenizer
    with pytest.raises(Exception, match="is unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


# Configurations and runs


@pytest.fixture
def vlynx(monkeypatch, capsys):
    """Runs the command line in this process: (arguments) → (exit code, output and errors)."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vlynx", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return run


def tagged(marker: Path) -> list[str]:
    return [
        f'!!python/object/apply:os.mkdir ["{marker}"]',
        f'!!python/object/new:subprocess.Popen [["mkdir", "{marker}"]]',
        "!!python/name:os.mkdir",
        "!!python/module:os",
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("command", ["fit", "test", "check"])
def test_a_configuration_with_python_in_its_tags(vlynx, tmp_path, marker, command, number):
    path = tmp_path / "strange.yaml"
    path.write_text(f"data:\n  class_path: {tagged(marker)[number]}\n")
    code, said = vlynx(command, f"--config={path}")
    assert code and "could not determine a constructor for the tag" in said


CALLS = {
    "subprocess.Popen": lambda marker: {"args": ["mkdir", str(marker)]},
    "os.mkdir": lambda marker: {"path": str(marker)},
    "builtins.eval": lambda marker: {"source": f"__import__('os').mkdir({str(marker)!r})"},
}
ALIGNED = {
    "backbone": {
        "class_path": "vlynx_pl.backbones.load_backbone",
        "init_args": {"path": "experiments/miniature", "dtype": "float32"},
    },
    "model": {
        "class_path": "vlynx_pl.alignment.InterfaceAlignment",
        "init_args": {"modality": "3d"},
    },
    "data": {"class_path": "datamodules.DepthDataModule", "init_args": {"root": "nowhere"}},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("part", ["backbone", "model", "data", "benchmark", "callbacks", "logger"])
def test_a_configuration_that_calls_what_is_no_such_part(vlynx, tmp_path, marker, call, part):
    strange = {"class_path": call, "init_args": CALLS[call](marker)}
    config = json.loads(json.dumps(ALIGNED))
    if part == "benchmark":
        config["data"]["init_args"]["benchmark"] = strange
    elif part in config:
        config[part] = strange
    else:
        config["trainer"] = {part: [strange] if part == "callbacks" else strange}
    (tmp_path / "strange.yaml").write_text(yaml.safe_dump(config))
    code, said = vlynx("fit", f"--config={tmp_path}/strange.yaml", f"--run={tmp_path}/run")
    assert code and f"Import path {call} does not correspond to a subclass of" in said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def run(tmp_path) -> Path:
    """A tuned run as far as its configuration says; its adapter is an empty folder."""
    config = ALIGNED | {
        "model": {
            "class_path": "vlynx_pl.tuning.InstructionTuning",
            "init_args": {"task": "qa", "modalities": {}},
        }
    }
    folder = tmp_path / "run"
    (folder / "adapters" / "llm-qa").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    read_configuration(folder)
    return folder


@pytest.mark.parametrize("number", range(4))
def test_a_runs_configuration_with_python_in_its_tags(run, marker, number):
    config = run / "config.yaml"
    for content in (
        f"data: {tagged(marker)[number]}",
        config.read_text().replace("nowhere", tagged(marker)[number]),
    ):
        config.write_text(content)
        with pytest.raises(UserError, match="is no configuration of a run"):
            read_configuration(run)
        with pytest.raises(RunFolderError, match="cannot be read"):
            refuse_other_settings(run, {})


@pytest.mark.parametrize("deep", ["[" * 5_000, "[" * 1_000 + "]" * 1_000, "{a: " * 5_000])
def test_a_runs_configuration_that_is_too_deep(run, deep):
    (run / "config.yaml").write_text(deep)
    with pytest.raises(UserError, match="is no configuration of a run"):
        read_configuration(run)
    with pytest.raises(RunFolderError, match="cannot be read"):
        refuse_other_settings(run, {})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("part", ["backbone", "model", "data"])
def test_a_run_that_calls_what_is_no_such_part(run, marker, call, part, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[part]["class_path"] = call
    config[part]["init_args"] |= CALLS[call](marker)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="does not correspond to a subclass"):
        ask(run, "?", {"depth": REPOSITORY}) if part == "data" else open_run(run)


# Checkpoints


WHOLE = {
    "state_dict": {"w": torch.arange(999.0)}, "optimizer_states": [], "lr_schedulers": [],
    "loops": {"fit_loop": {"epoch": 1}}, "premises": {}, "seed": 0,
}  # fmt: skip


def with_parts(content: bytes, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> bytes:
    """A checkpoint with some parts, by the end of their names, replaced; its sums are right."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            end = name.split("/", 1)[1].replace("/", "_").replace(".", "_")
            if end in parts:
                new.writestr(name, parts[end], compression)
            else:
                new.writestr(name, old.read(name))
    return packed.getvalue()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint \S+ cannot be used \(.*\); remove it") as told:
        read_checkpoint(path)
    return str(told.value)


def test_a_checkpoint_that_is_a_pickle(tmp_path, weapon, pickled):
    path = tmp_path / "step-00000001.ckpt"
    contents = {
        "plain": pickled,
        "of torch": saved(weapon),
        "of torch before 1.6": saved(weapon, _use_new_zipfile_serialization=False),
        "beside the rest": saved(WHOLE | {"callbacks": {"a": weapon}}),
        "in a list": saved(WHOLE | {"optimizer_states": [weapon]}),
        "in the place of another": with_parts(saved(WHOLE), data_pkl=pickled),
    }
    for content in contents.values():
        assert "weights_only" not in refused(path, content), "do not say how to execute it"


def test_a_checkpoint_that_is_none(tmp_path):
    path = tmp_path / "step-00000001.ckpt"
    for content in (b"", b"hello" * 100, saved([1]), saved({"a": 1}), saved(torch.zeros(3))):
        refused(path, content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_checkpoint_that_is_packed_to_burst(tmp_path, compression):
    burst = with_parts(saved(WHOLE), compression, data_0=bytes(1 << 26))
    assert len(burst) < 1 << 20
    assert "data/0 in it is compressed" in refused(tmp_path / "a.ckpt", burst)


def test_a_checkpoint_that_is_cut_off_or_has_changed(tmp_path):
    path, content = tmp_path / "a.ckpt", saved(WHOLE)
    random.seed(0)
    for _ in range(50):
        refused(path, content[: random.randrange(len(content))])
    for _ in range(100):
        changed = bytearray(content)
        changed[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(changed)
        try:  # dates and the like may change
            found = read_checkpoint(path)
        except UserError:
            continue
        assert torch.equal(found["state_dict"]["w"], WHOLE["state_dict"]["w"])
        assert found["loops"] == WHOLE["loops"]


def test_a_checkpoint_made_with_right_sums_of_wrong_bytes(tmp_path):
    path, content = tmp_path / "a.ckpt", saved(WHOLE)
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        [pickle_of_it] = [parts.read(n) for n in parts.namelist() if n.endswith("data.pkl")]
    random.seed(0)
    for _ in range(200):
        changed = bytearray(pickle_of_it)
        for _ in range(3):
            changed[random.randrange(2, len(changed))] = random.randrange(256)
        path.write_bytes(with_parts(content, data_pkl=bytes(changed)))
        with suppress(UserError):
            assert isinstance(read_checkpoint(path), dict)
    for odd in (b"", b"\x80\x02.", b"\x80\x02a.", b"\x80\x02h\x05.", b"\x80\x02\x86."):
        refused(path, with_parts(content, data_pkl=odd))


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_none_of_these(tmp_path, weapon):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    contents = [saved(WHOLE), saved(WHOLE), saved(WHOLE | {"a": weapon}), saved(WHOLE)[:-99]]
    for step, content in enumerate(contents):
        (folder / f"step-{step:08d}.ckpt").write_bytes(content)
    found, wrong = newest_checkpoint(tmp_path)
    assert found == folder / "step-00000001.ckpt" and len(wrong) == 2


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_given_by_hand_is_not_unpickled(vlynx, tmp_path, weapon, command):
    (tmp_path / "a.ckpt").write_bytes(saved(WHOLE | {"a": weapon}))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(ALIGNED))
    options = [f"--ckpt_path={tmp_path}/a.ckpt", "--weights_only=false", f"--run={tmp_path}/run"]
    with pytest.raises(pickle.UnpicklingError):
        vlynx(command, f"--config={tmp_path}/run.yaml", *options)


# Predictions and annotations; tests/datamodules/benchmarks has what is wrong in their fields


@pytest.mark.parametrize("name", ["predictions.jsonl", "predictions.json"])
def test_predictions_that_are_none(tmp_path, pickled, name):
    path = tmp_path / name
    for content in (pickled, DEEP, b'{"id":' * 100_000, b"\xff\xfe", b"[[]]", b"3", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}"):
            read_predictions(path)


# Links: a user's own are followed, those that an annotation names lead nowhere else


@pytest.fixture
def scenes(tmp_path) -> Path:
    """Two scenes, and a link to a third on another disk."""
    root = tmp_path / "root"
    write_scannet_scenes(root, 2)
    write_scannet_scene(tmp_path / "disk" / "scene0009_00")
    (root / "scans" / "scene0009_00").symlink_to(tmp_path / "disk" / "scene0009_00")
    return root


SMALL = {"frame_size": (8, 8), "num_workers": 0}


def test_a_scene_that_a_user_has_linked_is_found(scenes):
    data = DepthDataModule(scenes, **SMALL)
    data.setup("fit")
    assert {clip.split("/")[0] for b in data.val_dataloader() for clip in b["clips"]} == {
        "scene0009_00"
    }


def test_so_are_files_that_a_user_has_linked_within_a_scene(scenes, tmp_path):
    colour = scenes / "scans" / "scene0001_00" / "color"
    colour.rename(tmp_path / "disk" / "color")
    colour.symlink_to(tmp_path / "disk" / "color")
    data = DepthDataModule(scenes, **SMALL)
    data.setup("fit")
    clips = [clip for batch in data.train_dataloader() for clip in batch["clips"]]
    assert any(clip.startswith("scene0001_00") for clip in clips)


@pytest.mark.parametrize("name", ["scene0009_00", "../../disk/scene0009_00", "/etc", "..", "link"])
def test_an_annotation_leads_to_no_scene_outside(scenes, name):
    (scenes / "scans" / "link").symlink_to(scenes.parent)
    for split in ("train", "val"):
        (scenes / f"scannetv2_{split}.txt").write_text(name if split == "val" else "scene0000_00")
    with pytest.raises(BadSample, match="leads out of"):
        DepthDataModule(scenes, **SMALL).setup("fit")


@pytest.mark.parametrize("name", ["scene0009_00", "../../disk/scene0009_00", "/etc", "..", "link"])
def test_a_question_leads_to_no_scene_outside(scenes, name):
    (scenes / "scans" / "link").symlink_to(scenes.parent)
    for split, scene in (("train", "scene0000_00"), ("val", name)):
        record = {"scene_id": scene, "question_id": split, "question": "?", "answers": ["a"]}
        (scenes / f"ScanQA_v1.0_{split}.json").write_text(json.dumps([record]))
    data = DepthDataModule(scenes, **SMALL, objective="tuning", benchmark=ScanQA(scenes))
    with pytest.raises(BadSample, match=r"ScanQA_v1\.0_val\.json|no path inside|leads out of"):
        data.setup("fit")
