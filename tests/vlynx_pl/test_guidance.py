import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.testing import assert_close

from tests.conftest import MINIATURE
from vlynx_pl.adapters import Lora
from vlynx_pl.backbones import backbone_without_weights, load_backbone
from vlynx_pl.guidance import (
    GuidanceError,
    GuidanceSource,
    GuidanceStatistics,
    InterfaceGuidance,
    estimate_guidance,
    merge_moments,
    moments,
)


@pytest.fixture
def batches(videos):
    noise = torch.randint(0, 256, (1, 5, 3, 64, 64), dtype=torch.uint8)
    return [videos, noise, videos // 3]


@torch.no_grad()
def test_guidance_is_the_mean_over_frames_of_the_projections(backbone, batches):
    """Against hooks on the projections themselves, in float64."""
    keys = {i: [] for i in range(len(backbone.attention_layers()))}
    values = {i: [] for i in keys}
    handles = []
    for i, layer in enumerate(backbone.attention_layers()):
        for store, projection in ((keys, layer.k_proj), (values, layer.v_proj)):
            handles.append(
                projection.register_forward_hook(
                    lambda _, __, out, store=store, i=i: store[i].append(out.double())
                )
            )
    tokens = [backbone.encode(frames).double() for frames in batches]
    for handle in handles:
        handle.remove()
    guidance = estimate_guidance(backbone, batches)
    heads = backbone.attention_layers()[0].num_heads
    for stored, found in ((keys, guidance.keys), (values, guidance.values)):
        for i, outputs in stored.items():
            mean = torch.cat(outputs).mean(0)  # (S, C)
            wanted = mean.unflatten(-1, (heads, -1)).transpose(0, 1)
            assert_close(found[i], wanted.float(), atol=1e-6, rtol=1e-5)
    rows = torch.cat([t.flatten(0, 2) for t in tokens])
    assert_close(guidance.token_mean, rows.mean(0).float())
    assert_close(guidance.token_var, rows.var(0, correction=0).float())
    assert (guidance.num_frames, guidance.num_videos) == (17, 5)


def test_adapters_do_not_change_the_guidance(backbone, batches):
    plain = estimate_guidance(backbone, batches)
    backbone.add_vision_adapter("3d", Lora(4, 8))
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    again = estimate_guidance(backbone, batches)
    assert torch.equal(plain.keys, again.keys) and torch.equal(plain.token_var, again.token_var)


def test_moments_merge_whatever_the_split():
    rows = torch.randn(50, 3, dtype=torch.float64) * 1e-3 + 1e4  # where naive sums lose digits
    parts = torch.stack([moments(part) for part in rows.split([1, 9, 40])])
    count, mean, deviation = merge_moments(parts)
    assert_close(mean, rows.mean(0), rtol=1e-14, atol=0)
    assert_close(deviation / count, rows.var(0, correction=0), rtol=1e-6, atol=0)


@given(st.integers(0, 2**32), st.integers(1, 10**6), st.integers(0, 3))
def test_an_empty_set_changes_no_bit(seed, count, position):
    generator = torch.Generator().manual_seed(seed)
    part = torch.rand(3, 50, dtype=torch.float64, generator=generator) + 1
    part[0] = count
    parts = torch.zeros(4, 3, 50, dtype=torch.float64)
    parts[position] = part
    assert torch.equal(merge_moments(parts), part)
    assert not merge_moments(torch.zeros(2, 3, 5, dtype=torch.float64)).any()


def test_sums_merged_in_any_order_are_those_of_one_pass_to_rounding(backbone, batches):
    whole, merged = GuidanceStatistics(backbone), GuidanceStatistics(backbone)
    for frames in batches:
        whole.update(frames)
    for frames in reversed(batches):
        part = GuidanceStatistics(backbone)
        part.update(frames)
        merged.merge_state(dict(part.metric_state))
    for name, wanted in whole.metric_state.items():
        assert_close(merged.metric_state[name], wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("include_newline", [False, True])
@torch.no_grad()
def test_the_newline_is_counted_once_per_video_if_at_all(backbone, batches, include_newline):
    rows = []
    for frames in batches:
        rows.append(backbone.encode(frames).flatten(0, 2))
        if include_newline:
            rows += [backbone.newline[None]] * len(frames)
    wanted = torch.cat(rows).double().mean(0).float()
    assert_close(estimate_guidance(backbone, batches, include_newline).token_mean, wanted)


def test_guidance_shapes_of_so400m():
    """Through the whole tower, on shapes alone."""
    real = backbone_without_weights("llava-hf/llava-onevision-qwen2-0.5b-ov-hf")
    statistics = GuidanceStatistics(real).to("meta")
    statistics.update(torch.zeros(1, 2, 3, 384, 384, device="meta"))
    means = statistics.compute()
    assert means["keys"].shape == means["values"].shape == (26, 16, 729, 72)
    assert means["token_mean"].shape == means["token_var"].shape == (896,)


def test_no_video_is_an_error(backbone):
    with pytest.raises(GuidanceError, match="no reference video"):
        estimate_guidance(backbone, [])


@pytest.fixture
def saved(backbone, batches, tmp_path):
    path = tmp_path / "guidance.safetensors"
    source = GuidanceSource.of(backbone, False, ["a/0,1", "b/0"], {"frames": 2, "size": (64, 64)})
    replace(estimate_guidance(backbone, batches), source=source).save(path)
    return path


def test_a_saved_guidance_comes_back_whole(backbone, batches, saved):
    guidance, loaded = estimate_guidance(backbone, batches), InterfaceGuidance.load(saved)
    for name in ("keys", "values", "token_mean", "token_var"):
        assert torch.equal(getattr(loaded, name), getattr(guidance, name))
    assert loaded.source.videos == ("a/0,1", "b/0")
    assert json.loads(loaded.source.preprocessing) == {"frames": 2, "size": [64, 64]}
    assert loaded.source.fingerprint == backbone.fingerprint
    loaded.check(backbone, False, saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name], "no temporary file left"


def test_the_fingerprint_is_of_the_tensors_alone(backbone, batches, saved):
    guidance = estimate_guidance(backbone, batches)
    assert InterfaceGuidance.load(saved).fingerprint == guidance.fingerprint
    for name in ("keys", "values", "token_mean", "token_var"):
        other = getattr(guidance, name).clone()
        other.view(-1)[-1] += 1e-3
        assert replace(guidance, **{name: other}).fingerprint != guidance.fingerprint


def test_a_source_names_the_first_difference(backbone):
    source = GuidanceSource.of(backbone, False, ["a", "b"], {"fps": 1.0, "size": (64, 64)})
    assert source.difference(replace(source, backbone="the same under another name")) is None
    for change, words in (
        ({"fingerprint": "0"}, f"its fingerprint is {source.fingerprint}, here it is 0"),
        ({"frame_size": (1, 2)}, "its frame_size is (64, 64), here it is (1, 2)"),
        ({"include_newline": True}, "its include_newline is False, here it is True"),
        ({"preprocessing": "{}"}, 'is {"fps": 1.0, "size": [64, 64]}, here it is {}'),
        ({"videos": ("a", "c")}, "its clip 2 is b, here it is c"),
        ({"videos": ("a", "b", "c")}, "its clip 3 is none, here it is c"),
    ):
        assert words in source.difference(replace(source, **change))


def test_files_that_are_not_a_guidance_are_one_clear_error(saved):
    remedy = "Delete it, .* computed again from the reference videos"
    save_file({"x": torch.zeros(1)}, saved.parent / "x.safetensors")
    with pytest.raises(GuidanceError, match=rf"x\.safetensors cannot .*format is None.*{remedy}"):
        InterfaceGuidance.load(saved.parent / "x.safetensors")
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(GuidanceError, match=rf"{saved.name} cannot be used.*{remedy}"):
        InterfaceGuidance.load(saved)
    saved.unlink()
    with pytest.raises(GuidanceError, match=rf"{saved.name} cannot be used.*{remedy}"):
        InterfaceGuidance.load(saved)


def test_a_guidance_of_another_backbone_is_refused_with_both_fingerprints(saved):
    other = load_backbone(str(MINIATURE), "float32")
    with torch.no_grad():
        other.newline[0] += 1
    guidance = InterfaceGuidance.load(saved)
    with pytest.raises(GuidanceError) as error:
        guidance.check(other, False, saved)
    assert guidance.source.fingerprint in str(error.value)
    assert other.fingerprint in str(error.value)
    assert str(saved) in str(error.value)
