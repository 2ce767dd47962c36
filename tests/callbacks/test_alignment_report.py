import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from callbacks.alignment_report import advice, health_warnings, summary, table
from callbacks.landing_table import landing_table
from vlynx_pl.analysis.landing import landing
from vlynx_pl.analysis.names import vocabulary
from vlynx_pl.analysis.samples import Sample
from vlynx_pl.interface_gap import InterfaceGap


@pytest.fixture
def video() -> InterfaceGap:
    return InterfaceGap(
        attention=torch.tensor([0.1, 0.2, 0.3, 0.4]),
        token_mean=torch.zeros(3),
        token_var=torch.ones(3),
        mean_distance=1.0,
        var_distance=2.0,
        sample_variance=10.0,
        effective_rank=8.0,
    )


def warnings(video: InterfaceGap, before: InterfaceGap, **after: float) -> list[str]:
    gaps = {"video": video, "before": before, "after": replace(video, **after)}
    return health_warnings(gaps, 0.2, "β")


def test_healthy_tokens_cause_no_warning(video):
    assert warnings(video, video, sample_variance=2.1, effective_rank=1.7) == []
    poor = replace(video, sample_variance=0.5, effective_rank=1.1)
    assert warnings(video, poor, sample_variance=0.2, effective_rank=1.0) == []


def test_each_sign_of_collapse_is_named_with_a_remedy(video):
    (warning,) = warnings(video, video, sample_variance=0.1)
    assert "their sample variance is 0.1, healthy is 2 or more" in warning
    assert "raise --model.objective.β, lower" in warning
    (warning,) = warnings(video, video, effective_rank=1.0)
    assert "their effective rank is 1, healthy is 1.6 or more" in warning
    assert len(warnings(video, video, sample_variance=0.1, effective_rank=1.0)) == 2
    richer = replace(video, sample_variance=1000.0)
    assert warnings(video, richer, sample_variance=2.1) == []


def test_the_advice_for_a_modality_near_video_is_to_tune_without_alignment_too(video):
    near, far = (replace(video, attention=times * video.attention) for times in (1.4, 1.6))
    (note,) = advice({"video": video, "before": near, "after": video}, "ego")
    assert "(L_attn 0.35, RGB video 0.25)" in note
    assert "--model.streams.modalities='{ego: base}'" in note
    assert advice({"video": video, "before": far, "after": near}, "ego") == []


def test_the_table_shows_layer_groups_distances_and_health(video):
    gaps = {"video": video, "before": video, "after": replace(video, sample_variance=5.0)}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(gaps, "3d"))
    text = console.export_text()
    for line in ("layers 1-2", "layer 3 ", "layer 4 ", "0.1500", "L_stat", "3.00", "50%"):
        assert line in text
    assert summary(gaps)["after"]["stat"] == 3.0


def test_a_reference_without_variance_has_a_table_too(video):
    still = replace(video, sample_variance=0.0, effective_rank=0.0)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table({"video": still, "before": video, "after": video}, "3d"))
    assert "– (8.0)" in console.export_text()


def printed(made):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(made)
    return console.export_text()


def test_the_second_table_tells_streams_apart_names_them_and_follows_the_layers(loaded):
    generator = torch.Generator().manual_seed(0)
    clips = torch.arange(40).repeat_interleave(5)
    keys = torch.arange(200, dtype=torch.float64)

    def sample(shift):
        rows = torch.randn(200, loaded.hidden_size, generator=generator)
        return Sample(rows + shift, clips, keys)

    [sphere] = loaded.tokenizer(" sphere", add_special_tokens=False)["input_ids"]
    far = 100 * loaded.embed(torch.tensor(sphere)).detach()
    samples = {"video": sample(0), "before": sample(far), "after": sample(0)}
    spreads = dict.fromkeys(samples, torch.ones(3, 4)) | {"after": torch.full((3, 4), 0.25)}
    figures = json.loads(json.dumps(landing(vocabulary(loaded), samples, spreads)))
    assert figures["before"]["told_apart"] == 1.0
    assert 0.3 < figures["video"]["told_apart"] < 0.7 > figures["after"]["told_apart"]
    assert figures["before"]["names"] == {"sphere": 1.0}
    assert figures["before"]["name_entropy"] == 0 < figures["video"]["name_entropy"]
    assert figures["after"]["variance_per_layer"]["values"] == [0.25] * 4
    text = printed(landing_table(figures))
    for part in ("100.0%", "sphere 100.0%", "layers 1-2", "layer 4 ", "25 / 25 / 25 %"):
        assert part in text


def test_one_clip_and_still_frames_have_a_second_table_too(loaded):
    one = Sample(torch.ones(4, loaded.hidden_size), torch.zeros(4).long(), torch.arange(4).double())
    same = dict.fromkeys(("video", "before", "after"), one)
    figures = landing(vocabulary(loaded), same, dict.fromkeys(same, torch.zeros(3, 4)))
    assert "NaN" not in json.dumps(figures)
    assert "–" in printed(landing_table(figures))
