"""Fewer tokens: which ones are kept, what the LLM makes of them, and what is refused."""

import copy
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d
from torch.testing import assert_close

from tests.processes import meet, together
from tests.vlynx_pl.conftest import episode, load_miniature, saved, tuning
from vlynx_pl.adapters import AdapterError
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.tensor_store import TokenStore
from vlynx_pl.stream_reduction import USUAL, reducing_settings
from vlynx_pl.streams import AlignedStreams
from vlynx_pl.token_reduction import at_random, count_kept, pool, salient, spread
from vlynx_pl.usual_tokens import UsualTokenSums

shapes = st.tuples(st.integers(1, 4), st.sampled_from([1, 4, 9]), st.integers(1, 3))


def tokens_of(shape, seed):
    """Tokens of few different values, so that many scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).float()


def naive_spread(rows, count):
    """O(n² k): compare every candidate with every chosen token."""
    rows = torch.nn.functional.normalize(rows, dim=-1).tolist()
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def cosine(one, other):
        return sum(a * b for a, b in zip(one, other, strict=True))

    chosen = []
    for _ in range(count):
        left = [i for i in range(len(rows)) if i not in chosen]
        against = [rows[i] for i in chosen] or [mean]
        nearest = [max(cosine(rows[i], other) for other in against) for i in left]
        chosen.append(left[nearest.index(min(nearest))])
    return sorted(chosen)


@given(st.lists(shapes, min_size=1, max_size=3), st.integers(0, 99), st.booleans(), st.data())
def test_spread_equals_comparing_all_pairs(shapes, seed, tied, data):
    generator = torch.Generator().manual_seed(seed)
    streams = [torch.randn((*shape[:2], 6), generator=generator) for shape in shapes]
    if tied:  # the cosines of signed unit vectors are exact, and most are equal
        axes = torch.cat([torch.eye(6), -torch.eye(6)])
        streams = [axes[torch.randint(12, s.shape[:2], generator=generator)] for s in streams]
    rows = torch.cat([tokens.flatten(0, 1) for tokens in streams])
    assume(len(rows) > 2)  # two are as far from their mean
    count = data.draw(st.integers(1, len(rows)))
    masks = spread(streams, count)
    assert [mask.shape for mask in masks] == [tokens.shape[:2] for tokens in streams]
    found = torch.cat([mask.flatten() for mask in masks]).nonzero().flatten().tolist()
    assert found == naive_spread(rows, count)


@given(shapes, st.integers(0, 99), st.data())
def test_salient_tokens_have_the_largest_distances_and_ties_go_by_index(shape, seed, data):
    tokens, usual = tokens_of(shape, seed), tokens_of(shape[1:], seed + 1)
    count = data.draw(st.integers(1, shape[0] * shape[1]))
    scores = (tokens - usual).square().sum(-1).flatten().tolist()
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    kept = salient(tokens, usual, count)
    assert kept.flatten().nonzero().flatten().tolist() == sorted(best)
    norms = salient(tokens, torch.zeros(shape[1:]), 1)
    assert tokens[norms].norm() == tokens.norm(dim=-1).max()


def test_pooling_is_that_of_torch_and_places_are_the_cells_centres():
    tokens = torch.randn(3, 196, 5)
    pooled, places = pool(tokens, 7)
    wanted = avg_pool2d(tokens.mT.unflatten(2, (14, 14)), 2).flatten(2).mT
    assert_close(pooled.view(3, 49, 5), wanted)
    rows, columns = torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")
    centres = (rows % 2 == 0) & (columns % 2 == 0)
    assert torch.equal(places, centres.flatten().expand(3, -1))
    whole, places = pool(tokens, 14)
    assert_close(whole.view(tokens.shape), tokens)
    assert places.all()


@given(st.integers(1, 12), st.data())
def test_every_cell_has_a_place_of_its_own(rows, data):
    side = data.draw(st.integers(1, rows))
    pooled, places = pool(torch.randn(2, rows**2, 1), side)
    assert len(pooled) == places.sum() == 2 * side**2


def test_random_tokens_depend_on_the_seed_only():
    one, two = torch.randn(4, 16, 2), torch.randn(4, 16, 2)
    first = at_random(one, 9, 1)
    assert first.sum() == 9
    assert torch.equal(first, at_random(two, 9, 1))
    assert not torch.equal(first, at_random(one, 9, 2))


@given(st.integers(1, 40), st.sampled_from([16, 196]), st.floats(0, 1, exclude_min=True))
def test_a_share_is_of_all_tokens_and_a_number_of_each_frame(frames, per_frame, share):
    assert count_kept(3, frames, per_frame) == 3 * frames
    if round(share * frames * per_frame):
        assert abs(count_kept(share, frames, per_frame) - share * frames * per_frame) <= 0.5
    else:
        with pytest.raises(UserError, match="keeps 0 of"):
            count_kept(share, frames, per_frame)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": {"3d": 0.0}}, "0.0 is neither a share above 0.0 and up to 1.0, nor a whole"),
        ({"keep": {"3d": 1.5}}, "1.5 is neither a share"),
        ({"keep": {"3d": math.nan}}, "nan is neither a share"),
        ({"keep": {"3d": True}}, "True is neither a share"),
        ({"keep": {"3d": 0.5}, "elastic": [0.5, 2.0]}, "2.0 is neither a share"),
        ({"keep": {"audio": 0.5}}, "'audio' is not a stream of this run .* are video, 3d"),
        ({"keep": {"3d": 0.5}, "reduce": {"video": "pool"}}, "'video' is not a stream of this run"),
        ({"keep": 0.5}, "spread takes one number for all streams together"),
        ({"keep": {"3d": 0.5}, "reduce": "spread"}, "spread takes one number"),
        ({"reduce": {"3d": "salient"}}, "keeps all tokens; say what to keep"),
        ({"elastic": [0.5]}, "keeps all tokens; say what to keep"),
        ({"positions": "compact"}, "keeps all tokens; say what to keep"),
        ({"keep": {"3d": 0.5}, "train_vision": True}, "train_vision=true exclude each other"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=re.compile(message)):
        AlignedStreams({"3d": "base"}, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"keep": {"3d": 0.5, "video": 4}, "reduce": {"3d": "random", "video": "pool"}},
        {"keep": {"3d": 2}, "reduce": {"3d": "random"}, "positions": "compact"},
        {"keep": {"3d": 1.0}, "reduce": {"3d": "random"}, "elastic": [0.25, 1.0]},
        {"keep": 0.25, "reduce": "spread"},
    ],
)
def test_a_reduction_can_be_repeated_by_what_is_told_of_it(settings):
    told = AlignedStreams({"3d": "base"}, **settings).reduction.settings({})
    again = AlignedStreams({"3d": "base"}, **reducing_settings(told)).reduction.settings({})
    assert again == told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": {"video": 0.5}}, "keep=0.5 keeps 8 of the 16 .* square grid has: 1, 4, 9, 16"),
        ({"keep": {"video": 4}, "elastic": [1.0, 0.5]}, "keep=0.5 keeps 8 of the 16 tokens"),
        ({"keep": {"3d": 17}}, "keep=17 keeps 17 of the 16 tokens of a frame of 3d; give at most"),
    ],
)
def test_sizes_that_a_frame_cannot_have_are_refused(fresh, settings, message):
    with pytest.raises(UserError, match=message):
        tuning(AlignedStreams({"3d": "base"}, **settings), fresh)


def reducing(backbone, keep=0.25, how="salient", checkpointing="auto", **settings):
    """A module that reduces depth, with usual tokens of its own."""
    streams = AlignedStreams({"3d": "base"}, keep={"3d": keep}, reduce={"3d": how}, **settings)
    module = tuning(streams, backbone, checkpointing=checkpointing)
    if how == "salient":
        generator = torch.Generator().manual_seed(5)
        shape = backbone.tokens_per_frame, backbone.token_size
        streams.reduction.usual["3d"] = torch.randn(shape, generator=generator)
    return module


def test_without_a_reduction_all_is_as_before(fresh, videos):
    streams = AlignedStreams({"3d": "base"})
    module = tuning(streams, fresh).eval()
    common = {
        "backbone": fresh.fingerprint,
        "dtype": "torch.float32",
        "normalisation": fresh.normalisation,
    }
    as_before = {"adapter": None, "pooled": False}
    assert streams.token_cache_keys() == {
        "video": json.dumps(common),
        "3d": json.dumps(common | as_before),
    }
    assert streams.reads() == {"3d": as_before}
    assert streams.settings == {"modalities": {"3d": "base"}}
    video, depth = module.encode(episode(videos, "3d"))
    assert torch.equal(video.tokens, fresh.encode(videos[:1])[0])
    assert torch.equal(depth.tokens, fresh.encode(255 - videos[:1])[0])
    assert video.kept is None and depth.kept is None


@pytest.mark.parametrize("how", ["pool", "random", "salient", "spread"])
def test_keeping_all_tokens_equals_no_reduction(fresh, videos, how):
    wanted = tuning(AlignedStreams({"3d": "base"}), copy.deepcopy(fresh)).eval()
    if how == "spread":
        module = tuning(AlignedStreams({"3d": "base"}, keep=1.0, reduce="spread"), fresh).eval()
    else:
        module = reducing(fresh, 1.0, how).eval()
    asked = episode(videos, "3d")
    assert_close(module.losses(asked), wanted.losses(asked), atol=1e-6, rtol=1e-6)
    assert module.answers(asked) == wanted.answers(asked)


@torch.no_grad()
def test_kept_tokens_give_the_losses_and_answers_of_new_ones(fresh, videos, tmp_path):
    module = reducing(fresh).eval()
    module.token_store = TokenStore(tmp_path, module.streams.token_cache_keys())
    first = module.losses(episode(videos, "3d"))
    kept = {name: each for name, (each, _) in module.token_store.load("clip").items()}
    assert kept["3d"].shape == (12, fresh.token_size) and kept["video"].shape[:2] == (3, 16)
    again = episode(videos, "3d") | {"streams": {}, "tokens": kept}
    assert torch.equal(module.losses(again), first)
    assert module.answers(again) == module.answers(episode(videos, "3d"))
    size = sum(each.nbytes for each in kept.values())
    assert module.streams.kept_bytes(episode(videos, "3d")) == size


def test_adapters_and_stores_know_every_setting_of_the_reduction(fresh):
    settings = [{}, {"keep": 4}, {"how": "random"}, {"how": "pool"}, {"positions": "compact"}]
    modules = [reducing(copy.deepcopy(fresh), **each) for each in settings]
    modules.append(reducing(copy.deepcopy(fresh)))
    modules[-1].streams.reduction.usual["3d"] += 1
    for keep in (0.25, 0.5):
        streams = AlignedStreams({"3d": "base"}, keep=keep, reduce="spread")
        modules.append(tuning(streams, copy.deepcopy(fresh)))
    modules.append(reducing(copy.deepcopy(fresh), elastic=[1.0, 0.25]))
    modules.append(tuning(AlignedStreams({"3d": "base"}), copy.deepcopy(fresh)))
    reads = [json.dumps(module.streams.reads()) for module in modules]
    assert len(set(reads)) == len(modules)
    # What is kept of an elastic run is not reduced yet.
    keys = [module.streams.token_cache_keys()["3d"] for module in modules]
    assert keys[-1] == keys[-2] and len(set(keys)) == len(modules) - 1


def test_an_adapter_answers_as_it_was_tuned_or_with_any_size_if_elastic(fresh, videos, tmp_path):
    folder = saved(reducing(copy.deepcopy(fresh)), tmp_path / "fixed")
    again = tuning(AlignedStreams({"3d": "base"}, keep={"3d": 0.25}), llm_adapter=folder)
    again.on_test_start()
    [_, depth] = again.encode(episode(videos, "3d"))
    assert torch.equal(depth.tokens, reducing(fresh).encode(episode(videos, "3d"))[1].tokens)
    other = tuning(AlignedStreams({"3d": "base"}, keep={"3d": 0.5}), llm_adapter=folder)
    with pytest.raises(AdapterError, match=r"was tuned on .*0\.25.* elastic answers with another"):
        other.on_test_start()
    elastic = {"elastic": [1.0, 0.25]}
    folder = saved(reducing(load_miniature(), **elastic), tmp_path / "elastic")
    streams = AlignedStreams({"3d": "base"}, keep={"3d": 0.5}, **elastic)
    module = tuning(streams, llm_adapter=folder).eval()
    module.on_test_start()
    assert len(module.encode(episode(videos, "3d"))[1].tokens) == 24


def test_missing_and_foreign_usual_tokens_are_refused(fresh, videos, tmp_path):
    streams = {"modalities": {"3d": "base"}, "keep": {"3d": 0.25}}
    with pytest.raises(UserError, match=r"needs its usual tokens: .*callbacks.UsualTokens"):
        tuning(AlignedStreams(**streams), fresh).losses(episode(videos, "3d"))
    folder = saved(reducing(load_miniature()), tmp_path)
    other = load_miniature()
    with torch.no_grad():
        other.newline.add_(1)
    made_with = tmp_path / "llm-qa" / "made_with.json"
    kept = json.loads(made_with.read_text())
    made_with.write_text(json.dumps(kept | {"fingerprint": other.fingerprint}))
    with pytest.raises(AdapterError, match=r"cannot be used .*'3d' are of .*tune again"):
        tuning(AlignedStreams(**streams), other, llm_adapter=folder)
    made_with.write_text(json.dumps(kept))
    for content in (b"", b"no tensors"):
        (tmp_path / USUAL).write_bytes(content)
        with pytest.raises(AdapterError, match=r"usual.safetensors cannot be used"):
            tuning(AlignedStreams(**streams), load_miniature(), llm_adapter=folder)


def test_elastic_sizes_depend_on_seed_epoch_and_clip_only(fresh, videos):
    module = reducing(fresh, elastic=[1.0, 0.5, 0.25])

    def sizes(seed, epoch):
        module.streams.training_place = (seed, epoch)
        clips = [episode(videos, "3d") | {"name": f"clip{i}"} for i in range(20)]
        read = [len(module.encode(clip)[1].rows) for clip in clips]
        assert read == [module.streams.visual_tokens(clip) - 48 for clip in clips]
        return read

    first = sizes(1, 0)
    assert set(first) == {48, 24, 12} and sizes(1, 0) == first
    assert sizes(1, 1) != first != sizes(2, 0)
    largest = module.streams.outline(episode(videos, "3d"))[1]
    assert len(largest.rows) == 48, "a step needs memory for the largest"
    module.eval()
    assert set(sizes(1, 0)) == {12}


def test_a_resumed_training_draws_the_same_sizes_in_each_epoch(fresh, videos):
    clips = [episode(videos, "3d") | {"name": str(i)} for i in range(20)]

    def sizes(module, epoch):
        module._trainer = SimpleNamespace(current_epoch=epoch, global_rank=0)
        module.on_train_batch_start(clips, 0)
        return [len(module.encode(clip)[1].rows) for clip in clips]

    first = reducing(fresh, elastic=[1.0, 0.5, 0.25], checkpointing=False)
    wanted = [sizes(first, epoch) for epoch in range(3)]
    assert wanted[0] != wanted[1] != wanted[2]
    checkpoint = {"state_dict": first.state_dict()}
    first.on_save_checkpoint(checkpoint)
    torch.manual_seed(99)
    again = reducing(load_miniature(), elastic=[1.0, 0.5, 0.25], checkpointing=False)
    again.on_load_checkpoint(checkpoint)
    assert sizes(again, 2) == wanted[2]


def chosen_of_a_rank(rank, folder, meeting, videos, wanted):
    """Each rank sums its clips; all then choose the same tokens."""
    torch.set_num_threads(1)
    meet(rank, 2, meeting)
    sums = UsualTokenSums()
    sums.update(wanted["tokens"][rank : rank + 1])
    usual = sums.mean(wanted["usual"].shape, torch.device("cpu"))
    assert_close(usual, wanted["usual"])
    module = reducing(load_miniature())
    module.streams.reduction.usual["3d"] = wanted["usual"]
    [_, depth] = module.encode(episode(videos, "3d"))
    assert torch.equal(depth.kept, wanted["kept"])


def test_two_processes_measure_and_choose_what_one_does(fresh, videos, tmp_path):
    sums = UsualTokenSums()
    tokens = torch.randn(2, 16, fresh.token_size)
    sums.update(tokens)
    usual = sums.mean(tokens.shape[1:], torch.device("cpu"))
    assert_close(usual, tokens.mean(0))
    module = reducing(fresh)
    module.streams.reduction.usual["3d"] = usual
    kept = module.encode(episode(videos, "3d"))[1].kept
    wanted = {"tokens": tokens, "usual": usual, "kept": kept}
    meeting = str(tmp_path / "meeting")
    assert together(chosen_of_a_rank, 2, str(tmp_path), meeting, videos, wanted) == [0, 0]
