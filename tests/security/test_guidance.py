"""Untrusted guidance, and untrusted kept frames and tokens."""

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


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("keys", lambda tensor: tensor + float("nan")),
        ("values", lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("inf"))),
        ("token_mean", lambda tensor: tensor.to(torch.int64)),
        ("token_var", lambda tensor: tensor.to(torch.float8_e4m3fn)),
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


@pytest.mark.parametrize("number", range(3))
def test_an_entry_of_a_store_that_is_a_pickle_is_not_used(
    tmp_path, pickled, pickle_payload, number
):
    store = TensorStore(tmp_path / "store")
    store.save("clip", {"video": (torch.zeros(1, 2, 3), (0.0,))})
    [entry] = (tmp_path / "store").rglob("*.safetensors")
    entry.write_bytes((pickled, saved(pickle_payload), struct.pack("<Q", 2**40))[number])
    with pytest.warns(UserWarning, match="is made again"):
        assert not store.load("clip")


@pytest.mark.parametrize("note", [DEEP.decode(), "{", "3", "[]", "[0, []]"])
def test_an_entry_of_a_store_with_a_note_that_is_none_is_not_used(tmp_path, note):
    store = TensorStore(tmp_path)
    store.save("clip", {"video": (torch.zeros(1, 2, 3), (0.0,))})
    [entry] = tmp_path.rglob("*.safetensors")
    save_file({"video": torch.zeros(1, 2, 3)}, entry, {"note": note})
    with pytest.warns(UserWarning, match="is made again"):
        assert not store.load("clip")
