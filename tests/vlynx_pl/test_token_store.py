"""What a token store gives back, to whom, and what it refuses."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from vlynx_pl.errors import UserError
from vlynx_pl.token_store import Kept, TokenStore

ROADS = {"video": "base", "3d": "aligned"}


def streams(seed: int = 0, frames: int = 3):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Kept(torch.randn(frames, 4, 8, generator=generator).bfloat16(), (0.0, 0.5, 1.25))
        for name in ROADS
    }


def files(store):
    return sorted(store.folder.rglob("*.safetensors"))


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_was_kept_comes_back_to_its_clip_only(tmp_path_factory, clip, other):
    store = TokenStore(tmp_path_factory.mktemp("store"), ROADS)
    assert not store.holds(clip) and store.load(clip) is None
    store.save(clip, streams())
    assert store.holds(clip)
    for name, (tokens, times) in store.load(clip).items():
        assert torch.equal(tokens, streams()[name].tokens) and tokens.dtype == torch.bfloat16
        assert times == (0.0, 0.5, 1.25)
    assert store.holds(other) == (other == clip)


@pytest.mark.parametrize("stream", ROADS)
def test_another_road_shares_the_other_streams_and_nothing_else(tmp_path, stream):
    TokenStore(tmp_path, ROADS).save("clip", streams(0))
    changed = TokenStore(tmp_path, ROADS | {stream: "another"})
    assert changed.load("clip") is None
    changed.save("clip", streams(1))
    assert len(files(changed)) == 3
    [same] = ROADS.keys() - {stream}
    loaded = changed.load("clip")
    assert torch.equal(loaded[stream].tokens, streams(1)[stream].tokens)
    assert torch.equal(loaded[same].tokens, streams(0)[same].tokens)


def test_a_model_of_the_video_alone_needs_its_tokens_only(tmp_path):
    TokenStore(tmp_path, ROADS).save("clip", streams())
    assert set(TokenStore(tmp_path, {"video": "base"}).load("clip")) == {"video"}


def test_an_entry_of_another_model_is_refused_with_both_descriptions(tmp_path):
    ours = TokenStore(tmp_path / "ours", ROADS)
    theirs = TokenStore(tmp_path / "theirs", ROADS | {"3d": "other"})
    for store in (ours, theirs):
        store.save("clip", streams())
    (mine,) = {f.name for f in files(ours)} - {f.name for f in files(theirs)}
    (foreign,) = {f.name for f in files(theirs)} - {f.name for f in files(ours)}
    target = next(f for f in files(ours) if f.name == mine)
    target.write_bytes(next(f for f in files(theirs) if f.name == foreign).read_bytes())
    with pytest.raises(UserError, match=r"holds tokens of .*other.*needs those of .*aligned"):
        ours.load("clip")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b""),
        lambda path: save_file({"tokens": torch.zeros(1, 1, 1)}, path),
        lambda path: save_file({"x": torch.zeros(1)}, path, {"made_by": "", "times": "[]"}),
        lambda path: save_file({"tokens": torch.zeros(1)}, path, {"made_by": "", "times": "[[]]"}),
    ],
)
def test_a_damaged_entry_is_named_with_a_remedy(tmp_path, damage):
    store = TokenStore(tmp_path, ROADS)
    store.save("clip", streams())
    path = files(store)[0]
    damage(path)
    with pytest.raises(UserError, match=rf"{path} is no entry of a token store .*remove it"):
        store.load("clip")


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def fail(_, path, *rest):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlynx_pl.token_store.save_file", fail)
    store = TokenStore(tmp_path, ROADS)
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\)"):
        store.save("clip", streams())
    assert not store.holds("clip") and not list(tmp_path.rglob("*.unfinished"))


def test_entries_say_what_made_them(tmp_path):
    from safetensors import safe_open

    store = TokenStore(tmp_path, ROADS)
    store.save("clip", streams())
    with safe_open(files(store)[0], "pt") as entry:
        made_by = json.loads(entry.metadata()["made_by"])
    assert made_by[1:] in (["base", "video", "clip"], ["aligned", "3d", "clip"])
