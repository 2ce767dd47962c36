"""What sharing the prefix saves in tuning and in answering, as ratios of runs in this one process.

Qwen2-0.5B in width (896 channels, 14 heads, 2 of keys and values, MLP 4864), random weights, LoRA
of rank 64; a few layers suffice because every layer costs the same, and a small vocabulary because
logits are computed where an answer is only. Plain means one question a sequence.
"""

import argparse
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy
from transformers import (
    AutoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from experiments.speed.alignment_step import peak_memory
from experiments.speed.timing import timed
from vlynx_pl.adapters import Lora
from vlynx_pl.answering import SharedCache, generate
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.backbones.llava_onevision import LlavaOnevisionBackbone
from vlynx_pl.prefix_sharing import Branch, question_losses, shared_prefix

WIDTH, HEADS, KEY_HEADS, MLP, RANK = 896, 14, 2, 4864, 64
ANSWER = 8  # tokens of a question's that are its answer


class Cost(NamedTuple):
    """What a way of reading costs a layer."""

    tokens: int
    pairs: float  # of a query and a key that are multiplied, the hidden ones of a mask included

    def flops(self) -> float:
        """Of a forward; a backward through frozen weights costs in proportion."""
        keys = WIDTH // HEADS * KEY_HEADS
        shapes = [(WIDTH, WIDTH)] * 2 + [(WIDTH, keys)] * 2 + [(WIDTH, MLP)] * 3
        weights = sum(a * b + RANK * (a + b) for a, b in shapes)
        return 2 * weights * self.tokens + 4 * WIDTH * self.pairs


def wide_backbone(layers: int, device: str, dtype: torch.dtype) -> VideoBackbone:
    """A backbone with an LLM of the real width and random weights, and an LLM adapter "task"."""
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1
        ),
        text_config=Qwen2Config(
            hidden_size=WIDTH,
            intermediate_size=MLP,
            num_hidden_layers=layers,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            vocab_size=2000,
        ),
    )
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config).to(device, dtype)
    processor = AutoProcessor.from_pretrained("experiments/miniature")  # for its tokenizer
    backbone = LlavaOnevisionBackbone("bench", model, processor)
    backbone.add_llm_adapter("task", Lora(RANK, 16, dropout=0.0))
    return backbone.to(device)


class Plain:
    """One question a sequence, as usual."""

    def __init__(self, backbone: VideoBackbone, prefix: torch.Tensor, ids: torch.Tensor) -> None:
        self.backbone, self.ids = backbone, ids
        whole = [torch.cat([prefix, backbone.embed(row)]) for row in ids]
        self.sequences = torch.stack(whole)

    def learn(self, rows: slice) -> None:
        """Loss and gradients of the questions in ``rows``, as one batch."""
        out = self.backbone.language_model(inputs_embeds=self.sequences[rows], use_cache=False)
        logits = self.backbone.logits(out.last_hidden_state[:, -ANSWER - 1 : -1])
        targets = self.ids[rows, -ANSWER:]
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        (loss * len(targets) / len(self.ids)).backward()

    @torch.inference_mode()
    def answer(self, row: int) -> None:
        """An answer by transformers' own generate."""
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prefix", type=int, default=2000, help="tokens")
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=40, help="of a question and its answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    count, size = options.questions, options.tokens
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    backbone = wide_backbone(options.layers, options.device, dtype)
    text = len(shared_prefix(backbone, []))
    shape = (1, options.prefix - text - 1, WIDTH)  # without its newline
    streams = [torch.randn(shape, device=options.device, dtype=dtype)]
    prefix = shared_prefix(backbone, streams)
    ids = torch.randint(5, 2000, (count, size), device=options.device)
    plain = Plain(backbone, prefix, ids)
    learnt = [False] * (size - ANSWER) + [True] * ANSWER
    branches = [Branch(str(k), row, learnt) for k, row in enumerate(ids.tolist())]
    prompts = ids[:, :-ANSWER].tolist()

    def tune_one_by_one() -> None:
        backbone.zero_grad()
        for row in range(count):
            plain.learn(slice(row, row + 1))

    def tune_batched() -> None:
        backbone.zero_grad()
        plain.learn(slice(0, count))

    def tune_shared() -> None:
        backbone.zero_grad()
        question_losses(backbone, prefix, branches, "task").mean().backward()

    def answer_one_by_one() -> None:
        for row in range(count):
            plain.answer(row)

    def answer_shared() -> None:
        generate(SharedCache(backbone, streams, "task"), prompts, ANSWER, ANSWER, [])

    runs = (tune_one_by_one, tune_shared, answer_one_by_one, answer_shared)
    seconds = timed({run.__name__: run for run in runs}, options.repeats, options.device)
    start, alone, together = options.prefix, options.prefix + size, options.prefix + count * size
    asked = count * (size - ANSWER)
    # An attention without a mask of its own skips what is not causal, one with a mask does not.
    costs = {
        "tune_one_by_one": Cost(count * alone, count * alone**2 / 2),
        "tune_shared": Cost(together, together**2),
        "answer_one_by_one": Cost(count * alone, count * alone**2 / 2),
        "answer_shared": Cost(
            together, start**2 / 2 + asked * (start + asked) + count * ANSWER * together
        ),
    }
    table = Table(title=f"prefix {start}, {count} questions of {size}, {options.layers} layers")
    columns = ("", "plain", "shared", "ratio", "at least", "by FLOPs", "by tokens")
    for column in columns:
        table.add_column(column, justify="left" if column == "" else "right")
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
    # Of one layer, since one batch through all would fill a laptop's memory; layers are alike.
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
