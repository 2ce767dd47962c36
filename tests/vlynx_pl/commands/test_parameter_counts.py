import json

import pytest

from vlynx_pl.adapters import Lora, adapter_parameters
from vlynx_pl.backbones import backbone_without_weights
from vlynx_pl.baselines import TemporalPatch
from vlynx_pl.commands.parameter_counts import (
    MODELS,
    authors_layout,
    count_lora,
    count_pave,
    print_counts,
    published,
)


@pytest.mark.parametrize(
    ("model", "vision", "llm", "total"),
    [
        ("LLaVA-OV-0.5B", 33_492_992, 35_192_832, 68_685_824),
        ("LLaVA-OV-7B", 33_492_992, 161_480_704, 194_973_696),
        ("Qwen2.5-VL-3B", 45_719_552, 119_734_272, 165_453_824),
        ("InternVL2.5-4B", 28_311_552, 119_734_272, 148_045_824),
    ],
)
def test_counts_are_the_papers_to_the_unit(model, vision, llm, total):
    assert count_lora(published(model)) == {"vision": vision, "llm": llm, "total": total}


def of_real_layers(root):
    """LoRA parameters of rank 64 beside every linear layer of a model on the meta device."""
    layers = [root.get_submodule(name) for name in Lora(64, 16).config(root).target_modules]
    return 64 * sum(layer.in_features + layer.out_features for layer in layers)


@pytest.mark.parametrize(
    ("model", "vision", "llm", "patch"),
    [
        ("Qwen2.5-VL-3B", 45_719_552, 119_734_272, 9_450_496),
        ("Qwen2.5-VL-7B", 45_817_856, 161_480_704, 11_027_968),
        ("Qwen3-VL-2B", 28_835_840, 69_730_304, 8_926_208),
        ("Qwen3-VL-4B", 28_966_912, 132_120_576, 9_452_032),
        ("Qwen3-VL-8B", 35_387_392, 174_587_904, 11_291_648),
        ("InternVL2.5-4B", 28_311_552, 119_734_272, 8_926_208),
        ("InternVL3-1B", 28_311_552, 35_192_832, 7_743_104),
        ("InternVL3-2B", 28_311_552, 73_859_072, 8_400_384),
        ("InternVL3-8B", 28_311_552, 161_480_704, 10_503_680),
        ("InternVL3.5-1B", 28_311_552, 40_370_176, 7_874_560),
        ("InternVL3.5-2B", 28_311_552, 69_730_304, 8_926_208),
        ("InternVL3.5-4B", 28_311_552, 132_120_576, 9_452_032),
        ("InternVL3.5-8B", 28_311_552, 174_587_904, 11_029_504),
        ("SmolVLM2-256M", 10_616_832, 19_537_920, 11_608_768),
        ("SmolVLM2-500M", 10_616_832, 34_734_080, 12_003_136),
        ("SmolVLM2-2.2B", 34_781_184, 72_351_744, 12_137_472),
    ],
)
def test_counts_are_those_of_the_real_models_layers(model, vision, llm, patch):
    real = backbone_without_weights(MODELS[model].removesuffix(".json"))
    assert (of_real_layers(real.vision_tower), of_real_layers(real.language_model)) == (vision, llm)
    configuration = published(model)
    assert count_lora(configuration) == {"vision": vision, "llm": llm, "total": vision + llm}
    assert count_pave(configuration)["patch"] == patch
    made = TemporalPatch(1024, real.hidden_size, real.feature_size, tied=False)
    assert sum(p.numel() for p in made.parameters()) == patch


def test_the_papers_count_of_internvl_is_that_of_fused_projections():
    counts = count_lora(authors_layout(published("InternVL2.5-4B")))
    assert counts == {"vision": 25_165_824, "llm": 119_734_272, "total": 144_900_096}


def test_counts_are_those_of_the_adapters_and_patches_that_are_made(backbone):
    configuration = backbone.model.config.to_dict()
    backbone.add_vision_adapter("a", Lora(3, 128))
    backbone.add_llm_adapter("b", Lora(5, 16))
    made = {
        "vision": adapter_parameters(backbone.vision_adapters, "a"),
        "llm": adapter_parameters(backbone.llm_adapters, "b"),
    }
    sizes = {part: sum(p.numel() for p in adapter.values()) for part, adapter in made.items()}
    assert count_lora(configuration, 3, 5) == {**sizes, "total": sum(sizes.values())}
    widths = [configuration[part]["hidden_size"] for part in ("text_config", "vision_config")]
    patch = TemporalPatch(7, *widths, tied=False)
    assert count_pave(configuration, 7)["patch"] == sum(p.numel() for p in patch.parameters())


@pytest.mark.parametrize(
    ("model", "patch", "total"),
    [
        ("LLaVA-OV-0.5B", 6_235_776, 41_428_608),
        ("LLaVA-OV-7B", 8_996_352, 170_477_056),
        ("InternVL2.5-4B", 8_926_208, 128_660_480),
    ],
)
def test_pave_is_as_large_as_published(model, patch, total):
    counts = count_pave(published(model))
    assert (counts["patch"], counts["total"]) == (patch, total)


def test_the_rank_sweep_is_table_6(capsys):
    print_counts(as_json=True)
    ranks = json.loads(capsys.readouterr().out)["LLaVA-OV-0.5B"]
    millions = {rank: round(parts["total"] / 1e6, 1) for rank, parts in ranks.items()}
    assert millions == {
        "rank 8": 39.4,
        "rank 16": 43.6,
        "rank 32": 51.9,
        "rank 64": 68.7,
        "PAVE": 41.4,
    }
