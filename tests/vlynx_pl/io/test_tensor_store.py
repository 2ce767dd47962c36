"""What the stores give back, to whom, and what they do not use."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from vlynx_pl.io.tensor_store import TensorStore, TokenStore

KEYS = {"video": "base", "3d": "aligned"}


def streams(seed: int = 0, frames: int = 3):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(frames, 4, 8, generator=generator).bfloat16(), (0.0, 0.5, 1.25))
        for name in KEYS
    }


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


def same(kept, wanted):
    return kept.keys() == wanted.keys() and all(
        torch.equal(kept[name][0], tensor)
        and kept[name][0].dtype == tensor.dtype
        and kept[name][1] == times
        for name, (tensor, times) in wanted.items()
    )


@given(st.text(max_size=20), st.text(max_size=20))
def test_an_entry_is_found_by_its_clip_only(tmp_path_factory, clip, other):
    store = TokenStore(tmp_path_factory.mktemp("store"), KEYS)
    assert not store.holds(clip) and store.load(clip) == {}
    store.save(clip, streams())
    assert store.holds(clip) and same(store.load(clip), streams())
    assert store.holds(other) == (other == clip)


@pytest.mark.parametrize("stream", KEYS)
def test_another_key_shares_the_other_streams_and_nothing_else(tmp_path, stream):
    TokenStore(tmp_path, KEYS).save("clip", streams())
    changed = TokenStore(tmp_path, KEYS | {stream: "another"})
    assert changed.load("clip") == {}
    new = streams() | {stream: streams(1)[stream]}
    changed.save("clip", new)
    assert len(files(tmp_path)) == 3
    assert same(changed.load("clip"), new)
    assert same(TokenStore(tmp_path, KEYS).load("clip"), streams())


def test_a_model_of_the_video_alone_needs_its_tokens_only(tmp_path):
    TokenStore(tmp_path, KEYS).save("clip", streams())
    assert set(TokenStore(tmp_path, {"video": "base"}).load("clip")) == {"video"}


def rewrite(path, tensors=None, note=None):
    with safe_open(path, "pt") as entry:
        old = entry.metadata()["note"]
        own = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118
    save_file(own if tensors is None else tensors, path, {"note": note(old) if note else old})


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: save_file({"video": torch.zeros(3, 4, 8)}, path),
        lambda path: rewrite(path, {"x": torch.zeros(3, 4, 8).bfloat16()}),
        lambda path: rewrite(path, {"video": torch.zeros(2, 4, 8).bfloat16()}),
        lambda path: rewrite(path, note=lambda old: old.replace("clip", "clap")),
        lambda path: rewrite(path, note=lambda old: old.replace("1.25", "1e999")),
    ],
)
def test_a_damaged_entry_is_named_and_made_again(tmp_path, damage):
    store = TensorStore(tmp_path)
    store.save("clip", {"video": streams()["video"]})
    [path] = files(tmp_path)
    damage(path)
    with pytest.warns(UserWarning, match=rf"{path} cannot be used .* and is made again"):
        assert store.load("clip") == {}
    store.save("clip", {"video": streams()["video"]})
    assert same(store.load("clip"), {"video": streams()["video"]})


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(_, path, *rest):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlynx_pl.io.tensor_store.save_file", fail)
    store = TokenStore(tmp_path, KEYS)
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\)"):
        store.save("clip", streams())
    assert not store.holds("clip") and not list(tmp_path.rglob("*.unfinished"))
