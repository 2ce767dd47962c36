"""Measures a trained miniature on unseen rooms, and writes its model card and curves.

python -m experiments.miniature.card --config experiments/miniature/recipe.yaml --model DIR
"""

import argparse
import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from rich.progress import track
from torch import Tensor

from experiments.miniature.world import make_rooms
from experiments.toyworld.questions import COMPARISONS, ONE_OBJECT
from vlynx_pl.answering import answer
from vlynx_pl.backbones import VideoBackbone, load_backbone
from vlynx_pl.backbones.prompt import Stream
from vlynx_pl.questions import Question

TEST_SEED = 1003  # used neither for training nor for validation
TEST_SCENES = 500


class Score(NamedTuple):
    """Accuracy on a kind of question."""

    right: float
    majority: float  # accuracy of always giving the most frequent answer
    count: int


def measure(backbone: VideoBackbone, recipe: dict[str, Any]) -> dict[str, Score]:
    """Return the accuracy by kind from all frames, with one question of each kind per room."""
    rooms = make_rooms(recipe, TEST_SEED, TEST_SCENES)
    random = np.random.default_rng(TEST_SEED)
    given: dict[str, list[tuple[str, str]]] = defaultdict(list)
    asked = list(zip(rooms.frames, rooms.questions, strict=True))
    for frames, questions in track(asked, "Measuring on new rooms"):
        chosen = {}
        for kind in (*ONE_OBJECT, *COMPARISONS):
            if of_kind := [question for question in questions if question.kind == kind]:
                chosen[kind] = of_kind[random.integers(len(of_kind))]
        said = answers(backbone, frames, [question.text for question in chosen.values()])
        for (kind, question), text in zip(chosen.items(), said, strict=True):
            given[kind].append((text, question.answer))
    return {kind: _score(given[kind]) for kind in (*ONE_OBJECT, *COMPARISONS)}


@torch.inference_mode()
def answers(backbone: VideoBackbone, frames: Tensor, questions: Sequence[str]) -> list[str]:
    """Answer questions about frames (T, 3, H, W) uint8, one second apart."""
    video = Stream(backbone.encode(frames[None])[0], range(len(frames)))
    asked = [Question(str(i), text, ()) for i, text in enumerate(questions)]
    return answer(backbone, [video], asked, max_new_tokens=8)


def _score(given: list[tuple[str, str]]) -> Score:
    wanted = Counter(reference for _, reference in given)
    right = sum(said == reference for said, reference in given)
    return Score(right / len(given), max(wanted.values()) / len(given), len(given))


def save_curves(folder: Path) -> None:
    """Draw training_log.csv: losses on the left, validation accuracy on the right."""
    rows = _log(folder)
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    losses, accuracy = figure.subplots(1, 2)
    seeing = [row for row in rows if row["phase"] == "seeing"]
    answering = [row for row in rows if row["phase"] == "answering"]
    last = max(int(row["step"]) for row in seeing)
    steps = [last + int(row["step"]) for row in answering]
    losses.semilogy(
        [int(row["step"]) for row in seeing], [float(row["loss"]) for row in seeing], label="seeing"
    )
    for name in ("answer", "cell", "place", "thing"):
        losses.semilogy(steps, [float(row[name]) for row in answering], label=f"answering: {name}")
    losses.set(xlabel="step", title="Losses")
    losses.legend()
    for kind in (*ONE_OBJECT, *COMPARISONS):
        style = "--" if kind in COMPARISONS else "-"
        accuracy.plot(steps, [float(row[kind]) for row in answering], style, label=kind)
    accuracy.axhline(0.95, color="0.7", lw=1)
    accuracy.set(xlabel="step", title="Accuracy on validation rooms", ylim=(0, 1.02))
    accuracy.legend(ncol=2)
    figure.savefig(folder / "curves.png", dpi=110, format="png")


def write_card(
    folder: Path, backbone: VideoBackbone, recipe: dict[str, Any], scores: dict[str, Score]
) -> None:
    """Write the README.md of the model folder."""
    size = (folder / "model.safetensors").stat().st_size
    lines = [
        f"| {kind} | {'two objects' if kind in COMPARISONS else 'one object'} "
        f"| {score.right:.1%} | {score.majority:.1%} | {score.count} |"
        for kind, score in scores.items()
    ]
    seconds = int(_log(folder)[-1]["seconds"])
    steps = sum(stage["steps"] for stage in recipe["answering"]["curriculum"])
    text = _CARD.format(
        kind=type(backbone.model).__name__,
        name=recipe["name"],
        size=recipe["data"]["size"],
        tokens=backbone.tokens_per_frame,
        megabytes=size / 1e6,
        parameters=size / 2e6,
        frames=recipe["data"]["frames"],
        scores="\n".join(lines),
        scenes=recipe["data"]["train_scenes"],
        train_seed=recipe["data"]["train_seed"],
        val_seed=recipe["data"]["val_seed"],
        test_seed=TEST_SEED,
        test_scenes=TEST_SCENES,
        seed=recipe["seed"],
        minutes=seconds / 60,
        seeing=recipe["seeing"]["steps"],
        answering=steps,
    )
    (folder / "README.md").write_text(text)


def _log(folder: Path) -> list[dict[str, str]]:
    with (folder / "training_log.csv").open() as file:
        return list(csv.DictReader(file))


_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---
# A miniature: {kind} in {megabytes:.1f} MB

An ordinary `{kind}` with {parameters:.2f} M parameters in float16, trained from scratch on the toy
world, so that all of V-LynX can be run, tested and understood on a CPU. It knows toy rooms and
nothing else.

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("experiments/{name}")
processor = AutoProcessor.from_pretrained("experiments/{name}")
```

Call `.float()` on a CPU. A frame of {size} × {size} pixels gives {tokens} tokens.

## Held-out accuracy

{frames} frames, greedy decoding, exact match of the whole answer; {test_scenes} rooms of seed
{test_seed}, at most one question of each kind per room. *Majority* is the accuracy of always giving
the most frequent answer.

| kind | about | accuracy | majority | N |
|---|---|---|---|---|
{scores}

## Supervision

RGB only: no depth, no disparity colours, and no 3D question (the tokenizer knows the words of such
questions, but the model was never trained on one). There are two phases:

1. *Seeing*, {seeing} steps: colour and shape of every patch and of every projected token, and which
   of the {tokens} cells a token comes from, with labels from the renderer. This takes the place of
   the vision encoder's pre-training and of a caption stage.
2. *Answering*, {answering} steps: questions and answers, about one frame first and about four
   finally. The labels of cells continue with a small weight. At the words that name an object in a
   question, linear heads predict its place, colour and shape.

All heads are discarded. Several questions about a video share a sequence; each sees only the video
and itself.

## Reproduction

`make backbone MINIATURE={name}` follows recipe.yaml with seed {seed}: {scenes} rooms of seed
{train_seed} for training, rooms of seed {val_seed} for validation (training_log.csv and
curves.png). It takes {minutes:.0f} minutes on 2 CPU cores.
"""


def main() -> None:
    """Measure the model, draw the curves and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    options = parser.parse_args()
    recipe = yaml.safe_load(options.config.read_text())
    backbone = load_backbone(str(options.model), "float32", side=recipe["data"]["size"])
    scores = measure(backbone, recipe)
    for kind, score in scores.items():
        print(f"{kind}: {score.right:.3f} of {score.count} (majority {score.majority:.3f})")
    save_curves(options.model)
    write_card(options.model, backbone, recipe, scores)


if __name__ == "__main__":
    main()
