"""Clips on their way from files to a batch."""

import pytest
import torch
from transformers import LlavaOnevisionVideoProcessor

from datamodules.loading.loader import Loader, SampleDataset
from datamodules.loading.reading import ReadClip, collate
from datamodules.samples import Clip


@pytest.mark.parametrize("size", [(20, 20), (50, 64), (31, 47)])
def test_frames_are_resized_as_transformers_does(size):
    frames = torch.randint(256, (2, 3, 31, 47), dtype=torch.uint8)
    processor = LlavaOnevisionVideoProcessor(
        size={"height": size[0], "width": size[1]}, do_rescale=False, do_normalize=False
    )
    expected = processor([frames], return_tensors="pt")["pixel_values_videos"][0]
    resized, name = ReadClip(size)(Clip("scene/0,1", lambda: frames))
    assert resized.dtype == torch.uint8 and name == "scene/0,1"
    assert torch.equal(resized, expected.to(torch.uint8))


def test_a_batch_keeps_names_in_order():
    frames = [torch.full((2, 3, 4, 5), i, dtype=torch.uint8) for i in range(3)]
    batch = collate([(frames[i], f"clip {i}") for i in range(3)], (4, 5))
    assert batch["clips"] == ["clip 0", "clip 1", "clip 2"]
    assert torch.equal(batch["frames"], torch.stack(frames))


def test_any_number_of_tensors_can_be_sent_to_a_worker():
    frames = [torch.full((1, 3, 4, 5), i % 256, dtype=torch.uint8) for i in range(300)]
    clips = [Clip(f"{i}", frame.clone) for i, frame in enumerate(frames)]
    dataset = SampleDataset(clips, ReadClip((4, 5)))
    (last,) = Loader(dataset, None, sampler=[299], num_workers=1)
    assert last[1] == "299" and torch.equal(last[0], frames[299])
