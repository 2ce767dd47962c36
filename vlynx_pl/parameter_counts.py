"""Trainable parameters of the paper's models, counted on real shapes without any weights."""

import json
from importlib import resources

from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from vlynx_pl.adapters import adapter_parameters
from vlynx_pl.backbones.base import VideoBackbone
from vlynx_pl.backbones.loading import meta_backbone

MODELS = {
    "LLaVA-OV-0.5B": "llava-onevision-qwen2-0.5b-ov.json",
    "LLaVA-OV-7B": "llava-onevision-qwen2-7b-ov.json",
}
"""Display name → file with the dimensions that the model's authors published."""

VISION_RANKS = (8, 16, 32, 64)


def count_parameters(model: str, vision_rank: int = 64, llm_rank: int = 64) -> dict[str, int]:
    """LoRA parameters per part of one of :data:`MODELS`, built on the meta device."""
    backbone = published_backbone(model)
    backbone.add_vision_adapter("count", vision_rank, 2 * vision_rank)
    backbone.add_llm_adapter("count", llm_rank)
    vision, llm = _size(backbone.vision_adapters), _size(backbone.llm_adapters)
    return {"vision": vision, "llm": llm, "total": vision + llm}


def print_counts(as_json: bool) -> None:
    """Print the counts at rank 64, and the total for other vision ranks (paper, Table 6)."""
    counts = {
        model: {
            f"rank {rank}": count_parameters(model, rank)
            for rank in (VISION_RANKS if model == "LLaVA-OV-0.5B" else VISION_RANKS[-1:])
        }
        for model in MODELS
    }
    if as_json:
        print(json.dumps(counts, indent=1))
        return
    table = Table(title="LoRA parameters by rank of the vision adapter; the LLM's is 64")
    for column in ("model", "rank", "vision", "LLM", "total", ""):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for model, ranks in counts.items():
        for rank, parts in ranks.items():
            total = parts["total"]
            numbers = [f"{parts[part]:,}" for part in ("vision", "llm", "total")]
            table.add_row(model, rank.removeprefix("rank "), *numbers, f"{total / 1e6:.1f} M")
    Console().print(table)


def published_backbone(model: str) -> VideoBackbone:
    """One of :data:`MODELS` on the meta device: real shapes, no weights."""
    published = resources.files("vlynx_pl.backbones") / "published" / MODELS[model]
    return meta_backbone(AutoConfig.for_model(**json.loads(published.read_text())), model)


def _size(wrapper: PeftModel) -> int:
    return sum(p.numel() for p in adapter_parameters(wrapper, "count").values())
