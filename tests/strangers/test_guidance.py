"""Guidance, frames and tokens that a stranger kept."""

import struct

import pytest
import torch
from safetensors.torch import save_file

from datamodules.frame_cache import FrameCache
from datamodules.samples import Frames
from tests.strangers.conftest import DEEP, LONG_HEADERS, saved
from vlynx_pl.errors import UserError
from vlynx_pl.guidance import GuidanceError, GuidanceSource, InterfaceGuidance
from vlynx_pl.token_store import Kept, TokenStore


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


WHOLE = {
    "keys": torch.zeros(4, 4, 64, 32),
    "values": torch.zeros(4, 4, 64, 32),
    "token_mean": torch.zeros(160),
    "token_var": torch.zeros(160),
}


def guidance_file(folder, backbone, tensors):
    notes = GuidanceSource.of(backbone, include_newline=False).notes()
    counts = {"format": "vlynx-guidance-1", "num_frames": "1", "num_videos": "1"}
    save_file(tensors, folder / "guidance.safetensors", notes | counts)
    return folder / "guidance.safetensors"


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor + float("nan"),
        lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("inf")),
        lambda tensor: tensor.to(torch.int64),
        lambda tensor: tensor.to(torch.float8_e4m3fn),
    ],
)
def test_a_guidance_of_no_finite_numbers(backbone, tmp_path, name, change):
    path = guidance_file(tmp_path, backbone, WHOLE)
    InterfaceGuidance.load(path).check(backbone, False, path)
    path = guidance_file(tmp_path, backbone, WHOLE | {name: change(WHOLE[name])})
    with pytest.raises(GuidanceError, match=f"its {name} are no finite float32 numbers"):
        InterfaceGuidance.load(path)


@pytest.mark.parametrize("name", WHOLE)
def test_a_guidance_of_other_shapes_is_not_stretched(backbone, tmp_path, name):
    """One that torch would broadcast, one of another model and one of no shape."""
    for other in (WHOLE[name][:1], torch.cat([WHOLE[name]] * 2), torch.tensor(0.0)):
        path = guidance_file(tmp_path, backbone, WHOLE | {name: other.contiguous()})
        with pytest.raises(GuidanceError, match=rf"its {name} are \(.*\), here they are \("):
            InterfaceGuidance.load(path).check(backbone, False, path)


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
