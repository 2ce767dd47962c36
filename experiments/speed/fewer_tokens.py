"""What fewer tokens save in tuning and answering: seconds and memory, beside their FLOP.

The LLM of prefix_sharing.py reads two streams of 196 tokens per frame, some of which are dropped at
random. Nothing is encoded, as with callbacks.KeepTokens.
"""

import torch
from rich.console import Console

from experiments.speed.bench import dtype_on, new_table, parse_options, peak_memory, timed
from experiments.speed.prefix_sharing import ANSWER, WIDTH, Cost, wide_backbone
from vlynx_pl.answering import SharedCache, generate
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.prefix_sharing import Branch, question_losses
from vlynx_pl.token_reduction import at_random, count_kept

KEPT = ((1.0, 1.0), (1.0, 0.25), (0.5, 0.25), (0.25, 0.25))  # of the video and of the modality
PER_FRAME = 196


def main() -> None:
    """Print the table; ratios are to all tokens."""
    options = parse_options(__doc__, layers=4, frames=5, questions=10, tokens=40, repeats=3)
    count, size, device = options.questions, options.tokens, options.device
    backbone = wide_backbone(options.layers, device)
    shape = (options.frames, PER_FRAME, WIDTH)
    whole = [torch.randn(shape, device=device, dtype=dtype_on(device)) for _ in range(2)]
    ids = torch.randint(5, 2000, (count, size)).tolist()
    learnt = [False] * (size - ANSWER) + [True] * ANSWER
    branches = [Branch(str(k), row, learnt) for k, row in enumerate(ids)]
    prompts = [row[:-ANSWER] for row in ids]

    def streams(shares: tuple[float, ...]) -> list[Stream]:
        masks = [
            at_random(tokens, count_kept(share, *shape[:2]), seed)
            for seed, (tokens, share) in enumerate(zip(whole, shares, strict=True))
        ]
        return [Stream(t[kept], (), kept) for t, kept in zip(whole, masks, strict=True)]

    def tune(read: list[Stream]) -> None:
        backbone.zero_grad()
        question_losses(backbone, backbone.prompt(read), branches, "task").mean().backward()

    def answer(read: list[Stream], asked: int) -> None:
        cache = SharedCache(backbone, read, "task")
        generate(cache, prompts[:asked], ANSWER, ANSWER, [])

    def cost(read: list[Stream]) -> Cost:
        start, asked = backbone.prompt_length(read), count * size
        # On a GPU, blocks of masked pairs are skipped.
        seen = start**2 / 2 + asked * (start + size / 2)
        return Cost(start + asked, seen if device == "cuda" else (start + asked) ** 2)

    every = {shares: streams(shares) for shares in KEPT}
    runs = {
        (what, shares): work
        for shares, read in every.items()
        for what, work in (
            ("tune", lambda read=read: tune(read)),
            ("first", lambda read=read: answer(read, 1)),
            ("all", lambda read=read: answer(read, count)),
        )
    }
    seconds = timed({str(name): run for name, run in runs.items()}, options.repeats, device)
    memory = {shares: peak_memory(runs["tune", shares], device) for shares in KEPT}
    flops = {shares: cost(read).flops() for shares, read in every.items()}
    title = f"2 × {options.frames} frames, {count} questions of {size}, {options.layers} layers"
    columns = ("video / modality, %", "tuning, s", "ratio", "by FLOP", "peak, MiB", "ratio")
    table = new_table(title, *columns, "first answer, s", f"all {count}, s")
    for shares in KEPT:
        tuned, first, each = (seconds[str((what, shares))] for what in ("tune", "first", "all"))
        table.add_row(
            " / ".join(f"{100 * share:g}" for share in shares),
            f"{tuned:.2f}",
            f"{tuned / seconds[str(('tune', KEPT[0]))]:.2f}",
            f"{flops[shares] / flops[KEPT[0]]:.2f}",
            f"{memory[shares] / 2**20:.0f}",
            f"{memory[shares] / memory[KEPT[0]]:.2f}",
            f"{first:.2f}",
            f"{each:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
