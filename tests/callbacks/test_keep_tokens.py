"""Later epochs and other runs neither decode nor encode."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from callbacks import KeepTokens
from datamodules import Depth, DepthDataModule
from datamodules.benchmarks import ScanQA
from tests.conftest import MINIATURE, quiet_trainer
from vlynx_pl.adapters import Lora
from vlynx_pl.backbones import load_backbone
from vlynx_pl.io.errors import UserError
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.tuning import InstructionTuning


@pytest.fixture
def counted(monkeypatch):
    """Counts how often a scene is read and frames are encoded."""
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
    trainer = quiet_trainer(None, KeepTokens(folder), max_epochs=epochs)
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
    image = next((data / "scans" / "scene0000_00" / "color").iterdir())
    shutil.copy(image, tmp_path / "copy")
    image.unlink()
    shutil.copy(tmp_path / "copy", image)
    fit(load_backbone(str(MINIATURE), "float32"), data, tmp_path / "store", epochs=1)
    assert counted["encoded"] == encoded + 1


def test_a_store_too_large_for_the_disk_is_refused_before_it_is_begun(
    backbone, data, tmp_path, monkeypatch
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


def test_a_stream_that_the_data_lack_is_named(backbone, data, tmp_path):
    with pytest.raises(UserError, match="the data has no stream 'sound', only video, 3d"):
        fit(backbone, data, tmp_path / "store", epochs=1, stream="sound")
