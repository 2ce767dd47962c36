import pytest
import torch
from transformers import LlavaOnevisionVideoProcessor

from datamodules.loading.loader import Loader, SampleDataset
from datamodules.loading.reading import ReadClip, collate
from datamodules.samples import BadSample, Clip


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


def test_clips_of_two_lengths_name_both_and_the_remedy():
    short, long = (torch.zeros(length, 3, 4, 5, dtype=torch.uint8) for length in (2, 3))
    with pytest.raises(ValueError, match=r"a has 2 frames and b has 3, .*data\.fps=null"):
        collate([(short, "a"), (long, "b")], (4, 5))


def test_clips_may_hold_any_number_of_tensors_on_their_way_to_a_worker():
    pictures = [torch.full((1, 3, 4, 5), i % 256, dtype=torch.uint8) for i in range(300)]
    clips = [Clip(f"{i}", picture.clone) for i, picture in enumerate(pictures)]
    dataset = SampleDataset(clips, ReadClip((4, 5)))
    (last,) = Loader(dataset, None, sampler=[299], num_workers=1)
    assert last[1] == "299" and torch.equal(last[0], pictures[299])


def test_a_bad_sample_says_file_reason_and_remedy():
    bad = BadSample("a/b.png", "is blue", "Paint it")
    assert str(bad) == "a/b.png: is blue. Paint it"
