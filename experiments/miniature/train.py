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

from experiments.miniature.build import build_model, build_processor, build_tokenizer
from experiments.miniature.packing import Packed, Packer, draw
from experiments.miniature.world import COLOUR_NAMES, Rooms, make_rooms
from experiments.toyworld.questions import COMPARISONS, ONE_OBJECT, ToyQuestion, questions
from experiments.toyworld.scene import SHAPES, sample_scene


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

    def __init__(self, recipe: dict[str, Any], out: Path) -> None:
        self.recipe, self.out = recipe, out
        torch.manual_seed(recipe["seed"])
        torch.set_num_threads(recipe["threads"])
        self.random = np.random.default_rng(recipe["seed"])
        data, model = recipe["data"], recipe["model"]
        size, patch = data["size"], model["patch_size"]
        self.tokenizer = build_tokenizer(_texts(), model["max_vocabulary"])
        self.processor = build_processor(self.tokenizer, size, patch)
        self.model = build_model(self.tokenizer, size, model)
        grid = size // patch // 2
        self.heads = Heads(model["vision_width"], model["llm_width"], grid**2)
        self.packer = Packer(self.tokenizer, grid**2)
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
        """Encode uint8 (B, T, 3, H, W) to ViT output (B*T, S, C) and tokens (B, T*N + 1, D)."""
        pixels = frames.float() / 127.5 - 1
        features = self.model.model.get_video_features(pixels.contiguous(), return_dict=True)
        return features.hidden_states[-1], features.pooler_output

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of colour and shape, logits (..., 14) and labels (..., 2)."""
        classes = [len(COLOUR_NAMES) + 1, len(SHAPES) + 1]
        colours, shapes = logits.flatten(0, -2).split(classes, -1)
        labels = labels.flatten(0, -2)
        return cross_entropy(colours, labels[:, 0]) + cross_entropy(shapes, labels[:, 1])

    def _cell_loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of tokens that resemble the words for their cell and name its index."""
        cells = labels.flatten(1, 3)  # (B, T*N, 2)
        tokens = tokens[:, : cells.shape[1]]
        tokens = nn.functional.rms_norm(tokens, tokens.shape[-1:])
        embedding = self.model.get_input_embeddings().weight[self.words]
        colours, shapes = (tokens @ embedding.T).split([len(COLOUR_NAMES), len(SHAPES)], -1)
        full = cells[..., 0] > 0
        words = cross_entropy(colours[full], cells[full][:, 0] - 1) + cross_entropy(
            shapes[full], cells[full][:, 1] - 1
        )
        number = self.packer.tokens_per_frame
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
        packed = self._pack(rooms, asked, chosen, frames)
        tokens, hidden = self.read(rooms.frames[chosen][:, frames], packed)
        logits = self.model.lm_head(hidden[-1][packed.answers[:, 0], packed.answers[:, 1]])
        naming = hidden[phase["naming_layer"]][packed.names[:, 0], packed.names[:, 1]]
        cells = rooms.cells[chosen][:, frames]
        return {
            "answer": cross_entropy(logits, packed.targets),
            "cell": self._cell_loss(tokens, cells),
            "place": smooth_l1_loss(self.heads.place(naming), packed.places / 0.25, beta=0.2),
            "thing": self._label_loss(self.heads.thing(naming), packed.things),
        }

    def _pack(
        self,
        rooms: Rooms,
        asked: list[list[ToyQuestion]],
        chosen: np.ndarray,  # type: ignore[type-arg]
        frames: np.ndarray,  # type: ignore[type-arg]
    ) -> Packed:
        places = [rooms.places[i][frames] for i in chosen]
        return self.packer.pack(asked, places, [rooms.things[i] for i in chosen], len(frames))

    def read(self, frames: Tensor, packed: Packed) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return video tokens and the LLM's hidden states, the last of which is normed."""
        _, tokens = self._encode(frames)
        embeddings = self.model.get_input_embeddings()(packed.ids)
        video = packed.ids == self.packer.video[0]
        embeddings = embeddings.masked_scatter(video[..., None], tokens)
        out = self.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            output_hidden_states=True,
            use_cache=False,
        )
        return tokens, out.hidden_states

    @torch.inference_mode()
    def accuracy(self, frames: int) -> dict[str, float]:
        """Return the accuracy by kind on all questions about all validation scenes."""
        self.model.eval()
        right: dict[str, list[bool]] = defaultdict(list)
        order = np.arange(frames)
        for start in range(0, len(self.val.frames), 50):
            chosen = np.arange(start, min(start + 50, len(self.val.frames)))
            asked = [self.val.questions[i] for i in chosen]
            packed = self._pack(self.val, asked, chosen, order)
            _, hidden = self.read(self.val.frames[chosen][:, order], packed)
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
    training = Training(yaml.safe_load(options.config.read_text()), options.out)
    training.see()
    training.answer()
    training.save()


if __name__ == "__main__":
    main()
