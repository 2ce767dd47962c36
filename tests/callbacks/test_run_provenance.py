"""A run records its provenance whenever it starts, goes on or is tested."""

import hashlib
import json

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import Provenance
from datamodules import DepthDataModule
from datamodules.benchmarks import ScanQA
from tests.conftest import MINIATURE, quiet_trainer
from vlynx_pl.adapters import Lora
from vlynx_pl.backbones import load_backbone
from vlynx_pl.runs.provenance import last_session, sessions
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning


@pytest.fixture
def run(data, tmp_path):
    """A function that fits or tests in a run folder; one val scene is missing and skipped."""
    folder = tmp_path / "run"
    annotations = data / "ScanQA_v1.0_val.json"
    records = json.loads(annotations.read_text())
    records.append(records[0] | {"scene_id": "scene0009_00", "question_id": "val-9"})
    annotations.write_text(json.dumps(records))

    def go(what="fit", ckpt_path=None, **options):
        backbone = load_backbone(str(MINIATURE), "float32")
        episodes = DepthDataModule(
            data,
            benchmark=ScanQA(data),
            objective="tuning",
            test_split="val",
            frames=2,
            frame_size=backbone.frame_size,
            batch_size=1,
            num_workers=0,
            on_bad_sample="skip",
            max_bad_share=0.5,
        )
        saving = ModelCheckpoint(folder, save_last=True)
        trainer = quiet_trainer(folder, Provenance(), saving, limit_val_batches=0, **options)
        module = InstructionTuning(
            backbone, "scanqa", AlignedStreams({"3d": "base"}), lora=Lora(2, 16)
        )
        getattr(trainer, what)(module, datamodule=episodes, ckpt_path=ckpt_path)
        return backbone

    folder.mkdir()
    go.folder = folder
    return go


def test_every_start_adds_an_entry(run):
    (run.folder / "config.yaml").write_text("seed_everything: 42\n")
    backbone = run(max_epochs=1)
    [began] = sessions(run.folder)
    assert (began["stage"], began["step"], began["epoch"]) == ("fit", 0, 0)
    assert began["backbone"] == {
        "name": str(MINIATURE),
        "fingerprint": backbone.fingerprint,
        "quantization": None,
    }
    digest = hashlib.sha256(b"seed_everything: 42\n").hexdigest()
    assert began["config"] == {"file": "config.yaml", "sha256": digest}
    assert "2 train episodes, 1 val episodes, 1 skipped" in began["data"]["found"]
    [skipped] = began["data"]["skipped"]
    assert "scene0009_00" in skipped
    assert began["versions"]["torch"] and began["precision"] == "32-true"
    assert (began["device"], began["nodes"]) == ("cpu", 1)

    run(max_epochs=2, ckpt_path=str(run.folder / "last.ckpt"))
    again, went_on = sessions(run.folder)
    assert again == began
    assert (went_on["stage"], went_on["step"], went_on["epoch"]) == ("fit", 2, 1)

    run("test")
    assert last_session(run.folder)["stage"] == "test"
    assert len(sessions(run.folder)) == 3


def test_a_fast_dev_run_writes_nothing(run):
    run(fast_dev_run=True)
    run("test", fast_dev_run=True)
    assert sessions(run.folder) == []


def test_other_ranks_write_nothing(run, monkeypatch):
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda self: False))
    run(max_epochs=1)
    assert sessions(run.folder) == []
