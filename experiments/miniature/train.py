"""Trains the miniature backbone from scratch, on RGB alone; see recipe.yaml.

python -m experiments.miniature.train --config experiments/miniature/recipe.yaml --out DIR
"""

import argparse
import csv
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from experiments.miniature.build import FAMILIES, build_tokenizer
from experiments.miniature.packing import Packed, Packer, draw
from experiments.miniature.world import COLOUR_NAMES, Rooms, make_rooms
from experiments.toyworld.questions import COMPARISONS, ONE_OBJECT, ToyQuestion, questions
from experiments.toyworld.scene import SHAPES, sample_scene
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.backbones.prompt import Prompt, Stream


class Heads(nn.Module):
    """Linear heads that predict labels during training, and are discarded afterwards."""

    def __init__(self, vision_width: int, llm_width: int, cells: int) -> None:
        super().__init__()
        classes = len(COLOUR_NAMES) + len(SHAPES) + 2
        self.patch = nn.Linear(vision_width, classes)
        self.thing = nn.Linear(llm_width, classes)
        self.cell = nn.Linear(llm_width, cells)
        self.place = nn.Linear(llm_width, 2)


class Training:
    """Model, data and optimizer of one run."""

    def __init__(self, recipe: dict[str, Any], template: str, out: Path) -> None:
        self.recipe, self.out = recipe, out
        torch.manual_seed(recipe["seed"])
        torch.set_num_threads(recipe["threads"])
        self.random, self.clock = (np.random.default_rng(recipe["seed"]) for _ in range(2))
        data, model = recipe["data"], recipe["model"]
        size, family = data["size"], FAMILIES[recipe["family"]]
        texts = [*_texts(), *family.texts]
        self.tokenizer = build_tokenizer(texts, model["max_vocabulary"], family.special, template)
        self.model, self.processor = family.build(self.tokenizer, size, model)
        generation: Any = self.model.generation_config
        generation.eos_token_id = self.tokenizer.eos_token_id
        generation.pad_token_id = self.tokenizer.pad_token_id
        # transformers' own computation, with the prompts that the method writes.
        self.backbone = family.backbone("miniature", self.model, self.processor, size)
        self.model.requires_grad_(True)
        self.last_block = family.last_block(self.model)
        self.heads = Heads(
            model["vision_width"], model["llm_width"], self.backbone.tokens_per_frame
        )
        self.packer = Packer(self.tokenizer, self.backbone.chat)
        self.train, self.val = (
            make_rooms(recipe, data[f"{part}_seed"], data[f"{part}_scenes"])
            for part in ("train", "val")
        )
        words = [
            self.tokenizer(f" {n}", add_special_tokens=False)["input_ids"]
            for n in (*COLOUR_NAMES, *SHAPES)
        ]
        if any(len(word) > 1 for word in words):
            raise SystemExit("max_vocabulary is too small: a colour or shape is not a single token")
        self.words = torch.tensor(words).flatten()
        self.log: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    # Phase 1 --------------------------------------------------------------------------------

    def see(self) -> None:
        """Learn colour and shape of patches and tokens in single frames, and cells of tokens."""
        phase = self.recipe["seeing"]
        step = self._optimizer(phase["learning_rate"], phase["steps"])
        count = phase["batch_frames"]
        for number in self._track(phase["steps"], "Seeing"):
            room = torch.from_numpy(self.random.integers(len(self.train.frames), size=count))
            frame = torch.from_numpy(self.random.integers(self.train.frames.shape[1], size=count))
            hidden, tokens = self._encode(self.train.frames[room, frame][:, None])
            loss = self._label_loss(self.heads.patch(hidden), self.train.patches[room, frame])
            loss = loss + self._cell_loss(tokens, self.train.cells[room, frame][:, None])
            step(loss)
            if number % 100 == 0:
                self._write_log(phase="seeing", step=number, loss=loss.item())

    def _encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode uint8 (B, T, 3, H, W) to ViT output (B*T, S, C) and tokens (B, T, N, W)."""
        seen: list[Tensor] = []

        def keep(_: Any, __: Any, out: Tensor | tuple[Tensor]) -> None:
            seen.append(out if isinstance(out, Tensor) else out[0])

        handle = self.last_block.register_forward_hook(keep)
        tokens = self.backbone.encode(frames)
        handle.remove()
        [hidden] = seen
        places = self.backbone.patch_places.flatten()
        rows = hidden.reshape(-1, self.backbone.positions, hidden.shape[-1])[:, places]
        return rows, tokens

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of colour and shape, logits (..., 14) and labels (..., 2)."""
        classes = [len(COLOUR_NAMES) + 1, len(SHAPES) + 1]
        colours, shapes = logits.flatten(0, -2).split(classes, -1)
        labels = labels.flatten(0, -2)
        return cross_entropy(colours, labels[:, 0]) + cross_entropy(shapes, labels[:, 1])

    def _cell_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of tokens that resemble the words for their cell and name its index."""
        cells = labels.flatten(1, 3)  # (B, T*N, 2)
        number = self.backbone.tokens_per_frame
        tokens = tokens[..., : self.backbone.hidden_size].flatten(1, 2)
        tokens = nn.functional.rms_norm(tokens, tokens.shape[-1:])
        embedding = self.model.get_input_embeddings().weight[self.words]
        colours, shapes = (tokens @ embedding.T).split([len(COLOUR_NAMES), len(SHAPES)], -1)
        full = cells[..., 0] > 0
        words = cross_entropy(colours[full], cells[full][:, 0] - 1) + cross_entropy(
            shapes[full], cells[full][:, 1] - 1
        )
        index = torch.arange(number).repeat(tokens.shape[1] // number)
        index = index.expand(len(tokens), -1)
        return words + cross_entropy(self.heads.cell(tokens).transpose(1, 2), index)

    # Phase 2 --------------------------------------------------------------------------------

    def answer(self) -> None:
        """Learn to answer questions, first about one frame and finally about four."""
        phase = self.recipe["answering"]
        stages = phase["curriculum"]
        total = sum(stage["steps"] for stage in stages)
        step = self._optimizer(phase["learning_rate"], total)
        counts = np.array([places.shape[1] for places in self.train.places])
        schedule = [stage for stage in stages for _ in range(stage["steps"])]
        running: dict[str, list[float]] = defaultdict(list)
        for number in self._track(total, "Answering"):
            stage = schedule[number]
            pool = np.flatnonzero(counts <= stage["max_objects"])
            chosen = self.random.choice(pool, phase["batch_videos"], replace=False)
            shown = int(self.random.choice(stage["frames"]))
            order = self.random.permutation(self.train.frames.shape[1])[:shown]
            losses = self._answer_losses(self.train, chosen, np.sort(order))
            step(
                losses["answer"]
                + phase["cell_weight"] * losses["cell"]
                + phase["place_weight"] * losses["place"]
                + phase["thing_weight"] * losses["thing"]
            )
            for name, loss in losses.items():
                running[name].append(loss.item())
            if (number + 1) % phase["eval_every"] == 0 or number + 1 == total:
                accuracy = self.accuracy(shown)
                means = {name: float(np.mean(values)) for name, values in running.items()}
                self._write_log(phase="answering", step=number + 1, **means, **accuracy)
                running.clear()
                self.save()

    def _answer_losses(
        self,
        rooms: Rooms,
        chosen: np.ndarray,
        frames: np.ndarray,  # type: ignore[type-arg]
    ) -> dict[str, Tensor]:
        phase = self.recipe["answering"]
        weights, count = phase["weights"], phase["questions"]
        asked = [draw(rooms.questions[i], weights, count, self.random) for i in chosen]
        times = frames * self.clock.uniform(0.2, 2.0) + self.clock.uniform(0.0, 2.0)
        tokens, hidden, packed = self.read(rooms, asked, chosen, frames, times.tolist())
        logits = self.model.lm_head(hidden[-1][packed.answers[:, 0], packed.answers[:, 1]])
        naming = hidden[phase["naming_layer"]][packed.names[:, 0], packed.names[:, 1]]
        cells = rooms.cells[chosen][:, frames]
        return {
            "answer": cross_entropy(logits, packed.targets),
            "cell": self._cell_loss(tokens, cells),
            "place": smooth_l1_loss(self.heads.place(naming), packed.places / 0.25, beta=0.2),
            "thing": self._label_loss(self.heads.thing(naming), packed.things),
        }

    def read(
        self,
        rooms: Rooms,
        asked: list[list[ToyQuestion]],
        chosen: np.ndarray,  # type: ignore[type-arg]
        frames: np.ndarray,  # type: ignore[type-arg]
        times: list[float],
    ) -> tuple[Tensor, tuple[Tensor, ...], Packed]:
        """Read frames of rooms and questions about them.

        Returns:
            Tokens (B, T, N, W), the LLM's hidden states, the last of which is normed, and the
            sequences.
        """
        _, tokens = self._encode(rooms.frames[chosen][:, frames])
        prefix = self.backbone.prompt([Stream(tokens[0], times)])
        places = [rooms.places[i][frames] for i in chosen]
        packed = self.packer.pack(prefix, asked, places, [rooms.things[i] for i in chosen])
        return tokens, read_together(self.backbone, prefix, tokens, packed), packed

    @torch.inference_mode()
    def accuracy(self, frames: int) -> dict[str, float]:
        """Return the accuracy by kind on all questions about all validation scenes."""
        self.model.eval()
        right: dict[str, list[bool]] = defaultdict(list)
        order = np.arange(frames)
        for start in range(0, len(self.val.frames), 50):
            chosen = np.arange(start, min(start + 50, len(self.val.frames)))
            asked = [self.val.questions[i] for i in chosen]
            _, hidden, packed = self.read(self.val, asked, chosen, order, order.tolist())
            at = packed.answers[packed.first]
            said = self.model.lm_head(hidden[-1][at[:, 0], at[:, 1]]).argmax(-1)
            for kind, good in zip(packed.kinds, said == packed.targets[packed.first], strict=True):
                right[kind].append(bool(good))
        self.model.train()
        return {kind: float(np.mean(right[kind])) for kind in (*ONE_OBJECT, *COMPARISONS)}

    # Around ---------------------------------------------------------------------------------

    def _optimizer(self, rate: float, steps: int) -> Any:
        options = self.recipe["optimizer"]
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        optimizer = torch.optim.AdamW(
            parameters, rate, tuple(options["betas"]), weight_decay=options["weight_decay"]
        )
        schedule = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, options["warmup_steps"], steps, min_lr_rate=0.1
        )

        def step(loss: Tensor) -> None:
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, options["clip"])
            optimizer.step()
            schedule.step()

        return step

    def _track(self, steps: int, what: str) -> Any:
        return track(range(steps), what) if sys.stdout.isatty() else range(steps)

    def _write_log(self, **row: Any) -> None:
        row["seconds"] = round(time.perf_counter() - self.started)
        self.log.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        print(" ".join(f"{key}={value}" for key, value in self.log[-1].items()), flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(key for entry in self.log for key in entry))
        with (self.out / "training_log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.log)

    def save(self) -> None:
        """Write the Hugging Face folder, weights in float16."""
        half = self.model.state_dict()
        half = {name: tensor.half() for name, tensor in half.items() if name != "lm_head.weight"}
        self.model.config.dtype = torch.float16
        self.model.save_pretrained(self.out, state_dict=half)
        self.processor.save_pretrained(self.out)


def read_together(
    backbone: VideoBackbone, prefix: Prompt, tokens: Tensor, packed: Packed
) -> tuple[Tensor, ...]:
    """Run the LLM on several videos at once.

    Args:
        backbone: without adapters.
        prefix: of any of the videos, which differ in their tokens only.
        tokens: (B, T, N, W) of the videos.
        packed: questions about them.

    Returns:
        The hidden states (B, P + L, D), the last of which is normed.
    """
    videos, size, layers = len(tokens), backbone.hidden_size, backbone.deep_layers
    rows = tokens.flatten(1, 2)  # (B, V, W)
    shown = prefix.embeddings.expand(videos, -1, -1)
    shown = shown.masked_scatter(prefix.visual[None, :, None], rows[..., :size])
    text = backbone.embed(packed.ids)
    before = prefix.positions[:, None].expand(-1, videos, -1)
    positions = torch.cat([before, packed.positions.expand(len(before), -1, -1)], -1)
    deep: dict[str, Any] = {}
    if layers:
        visual = nn.functional.pad(prefix.visual, (0, packed.ids.shape[1]))
        features = rows[..., size:].unflatten(-1, (layers, size)).flatten(0, 1)  # (B·V, J, D)
        deep["visual_pos_masks"] = visual.expand(videos, -1)
        deep["deepstack_visual_embeds"] = list(features.unbind(1))
    hidden: tuple[Tensor, ...] = backbone.language_model(
        inputs_embeds=torch.cat([shown, text], 1),
        attention_mask=packed.mask,
        position_ids=positions[0] if len(positions) == 1 else positions,
        output_hidden_states=True,
        use_cache=False,
        **deep,
    ).hidden_states
    return hidden


def _texts() -> list[str]:
    """Return the texts of the tokenizer; the model itself is never trained on 3D questions."""
    texts = [f"<|im_start|>{who}\n" for who in ("system", "user", "assistant")] * 200
    texts += ["You are a helpful assistant."] * 200
    for index in range(300):
        for question in questions(sample_scene(0, index)):
            texts += [question.text, question.answer, f" {question.answer}"]
    return texts


def main() -> None:
    """Train according to the recipe and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    template = options.config.with_name("chat_template.jinja").read_text()
    training = Training(yaml.safe_load(options.config.read_text()), template, options.out)
    training.see()
    training.answer()
    training.save()


if __name__ == "__main__":
    main()
