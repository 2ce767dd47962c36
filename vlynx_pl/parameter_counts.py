"""Trainable parameters of the paper's models, counted on real shapes without any weights."""

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoConfig

from vlynx_pl.adapters import linear_names
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.loading import meta_backbone
from vlynx_pl.baselines import TemporalPatch

MODELS = {
    "LLaVA-OV-0.5B": "llava-onevision-qwen2-0.5b-ov.json",
    "LLaVA-OV-7B": "llava-onevision-qwen2-7b-ov.json",
}
"""Display name → file with the dimensions that the model's authors published."""

VISION_RANKS = (8, 16, 32, 64)


def count_parameters(
    model: VideoBackbone, vision_rank: int = 64, llm_rank: int = 64
) -> dict[str, int]:
    """LoRA parameters per part: r rows and r columns beside each linear layer's matrix."""
    vision = _lora(model.vision_tower, vision_rank)
    llm = _lora(model.language_model, llm_rank)
    return {"vision": vision, "llm": llm, "total": vision + llm}


def count_pave(model: VideoBackbone, side_dim: int = 1024) -> dict[str, int]:
    """Parameters of PAVE: the patch for side tokens of that width, LoRA of rank 64 in the LLM.

    As published: with weights for values, which the released code makes and does not use.
    """
    with torch.device("meta"):
        patch = TemporalPatch(side_dim, model.hidden_size, tied=False)
    size, llm = sum(p.numel() for p in patch.parameters()), _lora(model.language_model, 64)
    return {"patch": size, "llm": llm, "total": size + llm}


def print_counts(as_json: bool) -> None:
    """Print the counts at rank 64, the total for other vision ranks (paper, Table 6), and PAVE."""
    models = {name: published_backbone(name) for name in MODELS}
    counts = {
        name: {
            f"rank {rank}": count_parameters(model, rank)
            for rank in (VISION_RANKS if name == "LLaVA-OV-0.5B" else VISION_RANKS[-1:])
        }
        | {"PAVE": count_pave(model)}
        for name, model in models.items()
    }
    if as_json:
        print(json.dumps(counts, indent=1))
        return
    table = Table(
        title="LoRA parameters by rank of the vision adapter, or with PAVE's patch instead; the "
        "LLM's rank is 64"
    )
    for column in ("model", "rank", "vision or patch", "LLM", "total", ""):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for model, ranks in counts.items():
        for rank, parts in ranks.items():
            total = parts["total"]
            numbers = [f"{number:,}" for number in parts.values()]
            table.add_row(model, rank.removeprefix("rank "), *numbers, f"{total / 1e6:.1f} M")
    Console().print(table)


def published_backbone(model: str) -> VideoBackbone:
    """One of :data:`MODELS` on the meta device: real shapes, no weights."""
    published = resources.files("vlynx_pl.backbones") / "published" / MODELS[model]
    return meta_backbone(AutoConfig.for_model(**json.loads(published.read_text())), model)


def _lora(root: nn.Module, rank: int) -> int:
    layers: Iterable[Any] = map(root.get_submodule, linear_names(root))
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)
