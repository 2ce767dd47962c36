"""Untrusted guidance, and untrusted entries of the frame and token stores."""

import struct

import pytest
import torch
from safetensors.torch import save_file

from tests.security.conftest import DEEP, LONG_HEADERS, saved
from vlynx_pl.guidance import GuidanceError, GuidanceSource, InterfaceGuidance
from vlynx_pl.io.tensor_store import TensorStore


def test_a_guidance_that_is_a_pickle(tmp_path, pickled, pickle_payload):
    path = tmp_path / "guidance.safetensors"
    for content in (pickled, saved(pickle_payload)):
        path.write_bytes(content)
        with pytest.raises(GuidanceError, match="cannot be used"):
            InterfaceGuidance.load(path)


@pytest.mark.parametrize("content", LONG_HEADERS)
def test_a_guidance_that_claims_a_long_header(tmp_path, content):
    path = tmp_path / "guidance.safetensors"
    path.write_bytes(content)
    with pytest.raises(GuidanceError, match="cannot be used"):
        InterfaceGuidance.load(path)


WHOLE = {
    "keys": torch.zeros(4, 4, 64, 32),
    "values": torch.zeros(4, 4, 64, 32),
    "token_mean": torch.zeros(160),
    "token_var": torch.zeros(160),
}


def guidance_file(folder, backbone, tensors, **changes):
    notes = GuidanceSource.of(backbone, include_newline=False).notes()
    notes |= {"format": "vlynx-guidance-1", "num_frames": "1", "num_videos": "1"}
    save_file(tensors, folder / "guidance.safetensors", notes | changes)
    return folder / "guidance.safetensors"


@pytest.mark.parametrize(
    "notes",
    [{"videos": DEEP.decode()}, {"frame_size": "5"}, {"num_frames": "9" * 5000}],
    ids=lambda notes: next(iter(notes)),
)
def test_a_guidance_with_damaged_notes(backbone, tmp_path, notes):
    path = guidance_file(tmp_path, backbone, WHOLE, **notes)
    with pytest.raises(GuidanceError, match="cannot be used"):
        InterfaceGuidance.load(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys", lambda tensor: tensor + float("nan")),
        ("values", lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("inf"))),
        ("token_mean", lambda tensor: tensor.to(torch.int64)),
        ("token_var", lambda tensor: tensor.to(torch.float8_e4m3fn)),
    ],
)
def test_a_guidance_that_is_not_finite_float32(backbone, tmp_path, name, change):
    path = guidance_file(tmp_path, backbone, WHOLE)
    InterfaceGuidance.load(path).check(backbone, False, path)
    path = guidance_file(tmp_path, backbone, WHOLE | {name: change(WHOLE[name])})
    with pytest.raises(GuidanceError, match=f"its {name} are not finite float32 numbers"):
        InterfaceGuidance.load(path)


@pytest.mark.parametrize("name", ["keys", "token_mean"])
def test_a_guidance_of_another_shape_is_not_broadcast(backbone, tmp_path, name):
    for other in (WHOLE[name][:1], torch.cat([WHOLE[name]] * 2), torch.tensor(0.0)):
        path = guidance_file(tmp_path, backbone, WHOLE | {name: other.contiguous()})
        with pytest.raises(GuidanceError, match=rf"its {name} are \(.*\), here they are \("):
            InterfaceGuidance.load(path).check(backbone, False, path)


def test_damaged_entries_of_a_store_are_not_used(tmp_path, pickled, pickle_payload):
    def write(content):
        return lambda entry: entry.write_bytes(content)

    def with_note(note):
        return lambda entry: save_file({"video": torch.zeros(1, 2, 3)}, entry, {"note": note})

    contents = pickled, saved(pickle_payload), struct.pack("<Q", 2**40)
    notes = DEEP.decode(), "{", "3", "[0, []]"
    for damage in (*map(write, contents), *map(with_note, notes)):
        store = TensorStore(tmp_path / "store")
        store.save("clip", {"video": (torch.zeros(1, 2, 3), (0.0,))})
        [entry] = (tmp_path / "store").rglob("*.safetensors")
        damage(entry)
        with pytest.warns(UserWarning, match="is made again"):
            assert not store.load("clip")
        entry.unlink()
