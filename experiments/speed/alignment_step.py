"""Cost of an alignment step relative to plain LoRA training, as ratios of runs in this process.

SigLIP so400m in width (1152 channels, 16 heads, 729 positions), random weights, rank 64; a few
layers are enough because every layer costs the same. Plain is the same LoRA forward and backward
through tokens and L_stat, without reading attention.
"""

import torch
from rich.console import Console

from experiments.speed.bench import (
    dtype_on,
    new_table,
    parse_options,
    peak_memory,
    random_model,
    timed,
)
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones.llava_onevision import LlavaOnevisionBackbone
from vlynx_pl.guidance import GuidanceStatistics, estimate_guidance
from vlynx_pl.losses import token_statistics_loss


def wide_alignment(layers: int, device: str) -> InterfaceAlignment:
    """Build an alignment module of the real width with random weights."""
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": layers}
    vision |= {"num_attention_heads": 16, "image_size": 384, "patch_size": 14}
    text = {"hidden_size": 896, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 14, "vocab_size": 128}
    model = random_model(device, vision, text)
    return InterfaceAlignment(LlavaOnevisionBackbone("bench", model, None), "3d").to(device)


def main() -> None:
    """Print the table of ratios."""
    options = parse_options(__doc__, layers=3, frames=4, repeats=7)
    dtype = dtype_on(options.device)
    module = wide_alignment(options.layers, options.device)
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
    title = f"{hardware}, {options.layers} layers, {options.frames} frames, {dtype}"
    table = new_table(title, "", "plain", "V-LynX", "ratio", "at most")

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
