"""What sharing the prefix saves in tuning and answering, as ratios of runs in this process.

Qwen2-0.5B in width (896 channels, 14 heads, 2 of keys and values, MLP 4864), random weights, LoRA
of rank 64; a few layers are enough because every layer costs the same, and so is a small vocabulary
because logits are computed for answers only. Plain is one question per sequence; for a clip with a
single question, both are the same sequence.
"""

from typing import NamedTuple

import torch
from rich.console import Console
from torch.nn.functional import cross_entropy
from transformers import AutoProcessor

from experiments.speed.bench import (
    dtype_on,
    new_table,
    parse_options,
    peak_memory,
    random_model,
    timed,
)
from vlynx_pl.adapters import Lora
from vlynx_pl.answering import SharedCache, generate
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.backbones.llava_onevision import LlavaOnevisionBackbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.prefix_sharing import Branch, question_losses

WIDTH, HEADS, KEY_HEADS, MLP, RANK = 896, 14, 2, 4864, 64
ANSWER = 8  # tokens of a question that are its answer


class Cost(NamedTuple):
    """What a method costs per layer."""

    tokens: int
    pairs: float  # of a query and a key that are multiplied, including masked ones

    def flops(self) -> float:
        """Return those of a forward; a backward through frozen weights is proportional."""
        keys = WIDTH // HEADS * KEY_HEADS
        shapes = [(WIDTH, WIDTH)] * 2 + [(WIDTH, keys)] * 2 + [(WIDTH, MLP)] * 3
        weights = sum(a * b + RANK * (a + b) for a, b in shapes)
        return 2 * weights * self.tokens + 4 * WIDTH * self.pairs


def wide_backbone(layers: int, device: str) -> VideoBackbone:
    """Build a backbone with an LLM of the real width, random weights and an LLM adapter "task"."""
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 1}
    text = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": layers}
    text |= {"num_attention_heads": HEADS, "vocab_size": 2000}
    model = random_model(device, vision, text)
    processor = AutoProcessor.from_pretrained("experiments/miniature")  # for its tokenizer
    backbone = LlavaOnevisionBackbone("bench", model, processor)
    backbone.add_llm_adapter("task", Lora(RANK, 16, dropout=0.0))
    return backbone.to(device)


class Plain:
    """One question per sequence, as usual."""

    def __init__(self, backbone: VideoBackbone, prefix: torch.Tensor, ids: torch.Tensor) -> None:
        self.backbone, self.ids = backbone, ids
        whole = [torch.cat([prefix, backbone.embed(row)]) for row in ids]
        self.sequences = torch.stack(whole)

    def learn(self, rows: slice) -> None:
        """Compute loss and gradients of the questions in ``rows``, as one batch."""
        out = self.backbone.language_model(inputs_embeds=self.sequences[rows], use_cache=False)
        logits = self.backbone.logits(out.last_hidden_state[:, -ANSWER - 1 : -1])
        targets = self.ids[rows, -ANSWER:]
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        (loss * len(targets) / len(self.ids)).backward()

    @torch.inference_mode()
    def answer(self, row: int) -> None:
        """Answer a question with transformers' own generate."""
        prompt = self.sequences[row : row + 1, :-ANSWER]
        self.backbone.model.generate(
            inputs_embeds=prompt,
            attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long, device=prompt.device),
            min_new_tokens=ANSWER,
            max_new_tokens=ANSWER,
            do_sample=False,
            pad_token_id=0,
        )


def main() -> None:
    """Print the table of ratios."""
    options = parse_options(__doc__, layers=4, prefix=2000, questions=10, tokens=40, repeats=3)
    count, size, dtype = options.questions, options.tokens, dtype_on(options.device)
    backbone = wide_backbone(options.layers, options.device)
    text = backbone.prompt_length([])
    shape = (1, options.prefix - text - 1, WIDTH)  # without its newline
    streams = [Stream(torch.randn(shape, device=options.device, dtype=dtype))]
    prefix = backbone.prompt(streams)
    ids = torch.randint(5, 2000, (count, size), device=options.device)
    plain = Plain(backbone, prefix.embeddings, ids)
    learnt = [False] * (size - ANSWER) + [True] * ANSWER
    branches = [Branch(str(k), row, learnt) for k, row in enumerate(ids.tolist())]
    prompts = ids[:, :-ANSWER].tolist()

    def tune_one_by_one(asked: int = count) -> None:
        backbone.zero_grad()
        for row in range(asked):
            plain.learn(slice(row, row + 1))

    def tune_batched() -> None:
        backbone.zero_grad()
        plain.learn(slice(0, count))

    def tune_shared(asked: int = count) -> None:
        backbone.zero_grad()
        question_losses(backbone, prefix, branches[:asked], "task").mean().backward()

    def answer_one_by_one() -> None:
        for row in range(count):
            plain.answer(row)

    def answer_shared() -> None:
        generate(SharedCache(backbone, streams, "task"), prompts, ANSWER, ANSWER, [])

    runs = (tune_one_by_one, tune_shared, answer_one_by_one, answer_shared)
    single = {"plain": lambda: tune_one_by_one(1), "shared": lambda: tune_shared(1)}
    named = {run.__name__: run for run in runs} | single
    seconds = timed(named, options.repeats, options.device)
    start, alone, together = options.prefix, options.prefix + size, options.prefix + count * size
    asked = count * (size - ANSWER)
    # Causal attention and blocks on a GPU skip masked pairs; attention with a dense mask does not.
    seen = start**2 / 2 + count * size * (start + size / 2)
    costs = {
        "tune_one_by_one": Cost(count * alone, count * alone**2 / 2),
        "tune_shared": Cost(together, seen if options.device == "cuda" else together**2),
        "answer_one_by_one": Cost(count * alone, count * alone**2 / 2),
        "answer_shared": Cost(
            together, start**2 / 2 + asked * (start + asked) + count * ANSWER * together
        ),
    }
    title = f"prefix {start}, {count} questions of {size}, {options.layers} layers"
    columns = ("", "plain", "shared", "ratio", "at least", "by FLOPs", "by tokens")
    table = new_table(title, *columns)
    for name, task in (("tuning", "tune"), ("answering", "answer")):
        slow, fast = f"{task}_one_by_one", f"{task}_shared"
        table.add_row(
            f"{name}, questions/s",
            *(f"{count / seconds[run]:.2f}" for run in (slow, fast)),
            f"{seconds[slow] / seconds[fast]:.1f}",
            "5",
            f"{costs[slow].flops() / costs[fast].flops():.1f}",
            f"{costs[slow].tokens / costs[fast].tokens:.1f}",
        )
        speeds = (f"{costs[run].tokens / seconds[run]:.0f}" for run in (slow, fast))
        table.add_row(f"{name}, tokens/s", *speeds)
    table.add_row(
        "tuning with one question per clip, tokens/s",
        *(f"{alone / seconds[run]:.0f}" for run in single),
        f"{seconds['plain'] / seconds['shared']:.2f}",
        *["1.0"] * 3,
    )
    # With one layer, since one batch through all could exceed the memory; all layers are alike.
    del backbone.language_model.layers[1:]
    memory = [peak_memory(run, options.device) for run in (tune_batched, tune_shared)]
    table.add_row(
        "peak memory, MiB a layer, plain in one batch",
        *(f"{peak / 2**20:.0f}" for peak in memory),
        f"{memory[0] / memory[1]:.1f}",
        "1",
        "",
        f"{count * alone / together:.1f}",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
