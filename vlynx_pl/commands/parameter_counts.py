"""Trained parameters of the paper's models, computed from the sizes that their authors published.

Nothing is built, so nothing heavy is imported; tests compare with the layers of real models.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any, Final

from rich.console import Console
from rich.table import Table

MODELS: Final = {
    "LLaVA-OV-0.5B": "llava-onevision-qwen2-0.5b-ov.json",
    "LLaVA-OV-7B": "llava-onevision-qwen2-7b-ov.json",
    "Qwen2.5-VL-3B": "Qwen2.5-VL-3B-Instruct.json",
    "Qwen2.5-VL-7B": "Qwen2.5-VL-7B-Instruct.json",
    "Qwen3-VL-2B": "Qwen3-VL-2B-Instruct.json",
    "Qwen3-VL-4B": "Qwen3-VL-4B-Instruct.json",
    "Qwen3-VL-8B": "Qwen3-VL-8B-Instruct.json",
    "InternVL2.5-4B": "InternVL2_5-4B.json",
    "InternVL3-1B": "InternVL3-1B.json",
    "InternVL3-2B": "InternVL3-2B.json",
    "InternVL3-8B": "InternVL3-8B.json",
    "InternVL3.5-1B": "InternVL3_5-1B.json",
    "InternVL3.5-2B": "InternVL3_5-2B.json",
    "InternVL3.5-4B": "InternVL3_5-4B.json",
    "InternVL3.5-8B": "InternVL3_5-8B.json",
    "SmolVLM2-256M": "SmolVLM2-256M-Video-Instruct.json",
    "SmolVLM2-500M": "SmolVLM2-500M-Video-Instruct.json",
    "SmolVLM2-2.2B": "SmolVLM2-2.2B-Instruct.json",
}
"""Display name → file with the model's configuration, in transformers' words."""

_VISION_RANKS: Final = (8, 16, 32, 64)


def published(model: str) -> dict[str, Any]:
    """The configuration of one of :data:`MODELS`."""
    # Of the package above, as importing the backbones takes seconds.
    path = resources.files("vlynx_pl") / "backbones" / "published" / MODELS[model]
    configuration: dict[str, Any] = json.loads(path.read_text())
    return configuration


def count_lora(
    configuration: Mapping[str, Any], vision_rank: int = 64, llm_rank: int = 64
) -> dict[str, int]:
    """LoRA parameters of a Video LLM: r rows and r columns beside each linear layer's matrix.

    Args:
        configuration: with ``vision_config``, whose ``model_type`` is known here, and
            ``text_config`` of an LLM with Qwen2's layers.
        vision_rank: LoRA r in the vision encoder.
        llm_rank: LoRA r in the LLM.
    """
    sizes = configuration["vision_config"]
    vision = vision_rank * _sides(_ENCODERS[sizes["model_type"]](sizes))
    llm = llm_rank * _sides(_qwen2_layer(configuration["text_config"]))
    llm *= configuration["text_config"]["num_hidden_layers"]
    return {"vision": vision, "llm": llm, "total": vision + llm}


def count_pave(configuration: Mapping[str, Any], side_dim: int = 1024) -> dict[str, int]:
    """Parameters of PAVE: the patch for side tokens of that width, LoRA of rank 64 in the LLM.

    As published: two layers of width 512, with weights for values, which the released code makes
    and does not use (see :class:`vlynx_pl.baselines.TemporalPatch`).
    """
    hidden, layers = 512, 2
    query, out = (configuration[part]["hidden_size"] for part in ("vision_config", "text_config"))
    query *= configuration["vision_config"].get("spatial_merge_size", 1) ** 2
    query *= round(1 / configuration.get("downsample_ratio", 1)) ** 2
    query *= configuration.get("scale_factor", 1) ** 2  # all three: patches per token
    norms = layers * 2 * hidden + 2 * out
    without_bias = layers * 2 * [(hidden, 2 * hidden)]
    with_bias = [(side_dim, hidden), (query, hidden), (hidden, 2 * hidden), (2 * hidden, out)]
    with_bias += layers * 3 * [(hidden, hidden)]  # queries, keys and values
    weights = sum(rows * columns for rows, columns in without_bias + with_bias)
    patch = weights + sum(columns for _, columns in with_bias) + norms
    llm = count_lora(configuration)["llm"]
    return {"patch": patch, "llm": llm, "total": patch + llm}


def authors_layout(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an InternVL whose vision encoder has one matrix for Q, K and V."""
    vision = {**configuration["vision_config"], "model_type": "intern_vit_6b"}
    return {**configuration, "vision_config": vision}


def print_counts(as_json: bool) -> None:
    """Print the counts at rank 64, the total for other vision ranks (paper, Table 6), and PAVE."""
    counts = {}
    for model in MODELS:
        configuration = published(model)
        ranks = _VISION_RANKS if model == "LLaVA-OV-0.5B" else _VISION_RANKS[-1:]
        counts[model] = {f"rank {rank}": count_lora(configuration, rank) for rank in ranks}
        if model == "InternVL2.5-4B":  # the paper counts the authors' own layout
            counts[model]["fused"] = count_lora(authors_layout(configuration))
        counts[model]["PAVE"] = count_pave(configuration)
    if as_json:
        print(json.dumps(counts, indent=1))
        return
    table = Table(
        title="LoRA parameters by rank of the vision adapter, or with PAVE's patch instead; the "
        "LLM's rank is 64 (fused: one matrix for Q, K and V, as the paper counts)",
    )
    for column in ("model", "rank", "vision or patch", "LLM", "total"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for model, rows in counts.items():
        for rank, parts in rows.items():
            numbers = [f"{number:,}" for number in parts.values()]
            table.add_row(model, rank.removeprefix("rank "), *numbers)
    Console().print(table)


def _siglip(sizes: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear layers: attention, and the feed-forward network."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    layers: int = sizes["num_hidden_layers"]
    return layers * [*4 * [(width, width)], (width, inner), (inner, width)]


def _intern_vit(sizes: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The same with a fused projection."""
    layers: int = sizes["num_hidden_layers"]
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    return layers * [(width, 3 * width), (width, width), (width, inner), (inner, width)]


def _qwen2_5_vl(sizes: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The same with a fused projection and a gated feed-forward network, and the merger."""
    layers: int = sizes["depth"]
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    layer = [(width, 3 * width), (width, width), (width, inner), (width, inner), (inner, width)]
    return layers * layer + _merger(sizes)


def _qwen3_vl(sizes: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The same with a plain feed-forward network, and a merger for each layer of the deepstack."""
    layers: int = sizes["depth"]
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    layer = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
    return layers * layer + (1 + len(sizes["deepstack_visual_indexes"])) * _merger(sizes)


def _merger(sizes: Mapping[str, Any]) -> list[tuple[int, int]]:
    patches = sizes["spatial_merge_size"] ** 2 * sizes["hidden_size"]
    return [(patches, patches), (patches, sizes["out_hidden_size"])]


_ENCODERS: Final[Mapping[str, Callable[[Mapping[str, Any]], list[tuple[int, int]]]]] = {
    "siglip_vision_model": _siglip,
    "internvl_vision": _siglip,
    "smolvlm_vision": _siglip,
    "intern_vit_6b": _intern_vit,
    "qwen2_5_vl_vision": _qwen2_5_vl,
    "qwen3_vl_vision": _qwen3_vl,
}
"""model_type of a vision encoder → the linear layers that its adapter is beside."""


def _qwen2_layer(sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear layers: attention, and the gated feed-forward network."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    head = sizes.get("head_dim") or width // sizes["num_attention_heads"]
    queries, keys = (sizes[name] * head for name in ("num_attention_heads", "num_key_value_heads"))
    attention = [(width, queries), (width, keys), (width, keys), (queries, width)]
    return [*attention, (width, inner), (width, inner), (inner, width)]


def _sides(shapes: Iterable[tuple[int, int]]) -> int:
    return sum(inputs + outputs for inputs, outputs in shapes)
