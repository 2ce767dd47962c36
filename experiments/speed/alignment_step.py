"""What alignment costs beside plain LoRA training, as ratios of runs in this one process.

SigLIP so400m in width (1152 channels, 16 heads, 729 positions), random weights, rank 64; a few
layers suffice because every layer costs the same. Plain means the same LoRA forward and backward
through tokens and L_stat, without listening to attention.
"""

import argparse
import gc
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from experiments.speed.timing import timed
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones.llava_onevision import LlavaOnevisionBackbone
from vlynx_pl.guidance import GuidanceStatistics, estimate_guidance
from vlynx_pl.losses import token_statistics_loss


def wide_alignment(layers: int, device: str, dtype: torch.dtype) -> InterfaceAlignment:
    """An alignment module of the real width with random weights."""
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=layers,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            hidden_size=896,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=14,
            num_key_value_heads=2,
            vocab_size=128,
        ),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config).to(device, dtype)
    return InterfaceAlignment(LlavaOnevisionBackbone("bench", model, None), "3d").to(device)


def peak_memory(run: Callable[[], object], device: str) -> float:
    """Most bytes that tensors held during ``run`` beyond those held before it."""
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return float(peak)


def main() -> None:
    """Print the table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    module = wide_alignment(options.layers, options.device, dtype)
    backbone = module.backbone
    frames = torch.randn(options.frames, 1, 3, 384, 384, device=options.device, dtype=dtype)
    module.use_guidance(estimate_guidance(backbone, [frames]))
    reading = GuidanceStatistics(backbone).to(options.device)

    def plain_step() -> None:
        module.zero_grad()
        tokens = backbone.encode(frames, "3d")
        mean, variance = module.reference_token_mean, module.reference_token_var
        token_statistics_loss(tokens, mean, variance).backward()

    def alignment_step() -> None:
        module.zero_grad()
        module.losses(frames)["total"].backward()

    @torch.inference_mode()
    def plain_forward() -> None:
        backbone.encode(frames)

    seconds = timed(
        {
            "plain LoRA step": plain_step,
            "alignment step": alignment_step,
            "plain forward": plain_forward,
            "guidance pass": lambda: reading.update(frames),
        },
        options.repeats,
        options.device,
    )
    memory = {
        run.__name__: peak_memory(run, options.device) for run in (plain_step, alignment_step)
    }
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    table = Table(title=f"{hardware}, {options.layers} layers, {options.frames} frames, {dtype}")
    for column in ("", "plain", "V-LynX", "ratio", "at most"):
        table.add_column(column, justify="left" if column == "" else "right")

    def row(name: str, plain: float, ours: float, unit: str, bound: float) -> None:
        table.add_row(
            name, f"{plain:.3f} {unit}", f"{ours:.3f} {unit}", f"{ours / plain:.3f}", str(bound)
        )

    row("alignment step, time", seconds["plain LoRA step"], seconds["alignment step"], "s", 1.10)
    row("guidance pass, time", seconds["plain forward"], seconds["guidance pass"], "s", 1.05)
    plain, ours = (memory[name] / 2**20 for name in ("plain_step", "alignment_step"))
    row("alignment step, peak memory", plain, ours, "MiB", 1.15)
    Console().print(table)


if __name__ == "__main__":
    main()
