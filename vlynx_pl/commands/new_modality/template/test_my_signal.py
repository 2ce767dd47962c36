"""The modality is installed, reads its toy data, and refuses other files."""

import pytest
import torch
from toy_data import write_toy_data

from datamodules import ModalityDataModule
from datamodules.modalities.installed import modality_named
from datamodules.modalities.modality import FrameSpec
from datamodules.samples import BadSample

MODALITY = modality_named("my_signal")


def test_its_frames_and_videos_are_batches(tmp_path):
    write_toy_data(tmp_path, 5)
    data = ModalityDataModule(
        tmp_path,
        modalities=["my_signal"],
        frames=4,
        frame_size=(64, 64),
        batch_size=2,
        num_workers=0,
    )
    data.setup("fit")
    for loader in (data.train_dataloader(), data.reference_dataloader()):
        frames = next(iter(loader))["frames"]
        assert frames.shape[1:] == (4, 3, 64, 64) and frames.dtype == torch.uint8
        assert frames.float().std() > 1


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"1,2,3"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(BadSample, match=r"a\.npy: cannot be read"):
        MODALITY.render(tmp_path / "a.npy", FrameSpec(4, (64, 64)))
