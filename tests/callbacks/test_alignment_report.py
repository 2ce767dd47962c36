import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from callbacks.alignment_report import health_warnings, summary, table
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


def test_healthy_tokens_are_not_warned_about(video):
    assert (
        health_warnings(video, replace(video, sample_variance=2.1, effective_rank=1.7), 0.2) == []
    )


def test_each_sign_of_collapse_is_named_with_a_remedy(video):
    flat = replace(video, sample_variance=0.1)
    (warning,) = health_warnings(video, flat, 0.2)
    assert "only 1.0% of the RGB video tokens' between-sample variance" in warning
    assert "--model.stat_weight" in warning
    (warning,) = health_warnings(video, replace(video, effective_rank=1.0), 0.2)
    assert "effective rank" in warning
    assert len(health_warnings(video, replace(flat, effective_rank=1.0), 0.2)) == 2


def test_the_table_shows_layer_groups_distances_and_health(video):
    gaps = {"video": video, "before": video, "after": replace(video, sample_variance=5.0)}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(gaps, "3d"))
    text = console.export_text()
    for line in ("layers 1-2", "layers 3-3", "layers 4-4", "0.1500", "L_stat", "3.00", "50%"):
        assert line in text
    assert summary(gaps)["after"]["stat"] == 3.0
