"""A second epoch and a second run neither decode nor encode."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer

from callbacks import KeepTokens
from datamodules import Depth, DepthDataModule
from datamodules.benchmarks import ScanQA
from tests.conftest import MINIATURE
from vlynx_pl.adapters import Lora
from vlynx_pl.backbones import load_backbone
from vlynx_pl.io.errors import UserError
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning


@pytest.fixture
def counted(monkeypatch):
    """How often a scene was read, and how often frames were encoded."""
    counts = {"read": 0, "encoded": 0}
    read, encode = Depth.streams, AlignedStreams.encode

    def streams(self, source, spec):
        found = read(self, source, spec)

        def counting():
            counts["read"] += 1
            return found.read()

        return type(found)(counting, found.files)

    monkeypatch.setattr(Depth, "streams", streams)

    def encoding(self, episode):
        counts["encoded"] += 1
        return encode(self, episode)

    monkeypatch.setattr(AlignedStreams, "encode", encoding)
    return counts


def fit(backbone, root, folder, epochs, stream="3d"):
    torch.manual_seed(0)
    module = InstructionTuning(
        backbone, "scanqa", AlignedStreams({stream: "base"}), lora=Lora(4, 8)
    )
    module_data = DepthDataModule(
        root,
        benchmark=ScanQA(root),
        objective="tuning",
        frames=2,
        frame_size=backbone.frame_size,
        batch_size=2,
        num_workers=0,
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[KeepTokens(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=module_data)
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def test_only_the_first_epoch_decodes_and_encodes(backbone, data, tmp_path, counted, caplog):
    with caplog.at_level("INFO"):
        fit(backbone, data, tmp_path / "store", epochs=3)
    assert counted == {"read": 4, "encoded": 3}  # three scenes, and one for the estimate of size
    assert "Tokens of 3 clips are not in" in caplog.text


def test_a_second_run_reads_nothing_and_learns_the_same(data, tmp_path, counted):
    first = fit(load_backbone(str(MINIATURE), "float32"), data, tmp_path / "store", epochs=2)
    before = dict(counted)
    second = fit(load_backbone(str(MINIATURE), "float32"), data, tmp_path / "store", epochs=2)
    assert counted == before
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_changed_file_is_read_again(backbone, data, tmp_path, counted):
    fit(backbone, data, tmp_path / "store", epochs=1)
    encoded = counted["encoded"]
    picture = next((data / "scans" / "scene0000_00" / "color").iterdir())
    shutil.copy(picture, tmp_path / "copy")
    picture.unlink()
    shutil.copy(tmp_path / "copy", picture)
    fit(load_backbone(str(MINIATURE), "float32"), data, tmp_path / "store", epochs=1)
    assert counted["encoded"] == encoded + 1


def test_a_store_that_does_not_fit_on_the_disk_is_refused_before_it_is_begun(
    backbone,
    data,
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match=r"about 0\.00 GB, 0 GB are free; give KeepTokens another"):
        fit(backbone, data, tmp_path / "store", epochs=1)
    assert not (tmp_path / "store").exists()


def test_a_damaged_entry_is_made_again(data, tmp_path, counted):
    first = fit(load_backbone(str(MINIATURE), "float32"), data, tmp_path / "store", epochs=2)
    entry = next((tmp_path / "store").rglob("*.safetensors"))
    whole, encoded = entry.read_bytes(), counted["encoded"]
    entry.write_bytes(b"no entry")
    with pytest.warns(UserWarning, match=rf"{entry} cannot be used .* and is made again"):
        again = fit(load_backbone(str(MINIATURE), "float32"), data, tmp_path / "store", epochs=2)
    assert entry.read_bytes() == whole and counted["encoded"] == encoded + 1
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_sense_that_the_data_has_not_is_named(backbone, data, tmp_path):
    with pytest.raises(UserError, match="the data has no stream 'sound', only video, 3d"):
        fit(backbone, data, tmp_path / "store", epochs=1, stream="sound")
