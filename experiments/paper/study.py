"""What the study runs: senses, alignments, tunings, and the tables they are for.

A run is a command of ``vlynx`` in a folder of its own, so that every number can be traced to its
configuration, its answers and its provenance. Settings were chosen on worlds of another seed, but
for ``patience``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

CLIPS: Final = 1000
HELD_OUT: Final = 250  # the last of them
WORLD_SEED: Final = 10
_BACKBONE: Final = "experiments/backbones/miniature.yaml"
_SIZE: Final = "experiments/align/backbones/miniature.yaml"


@dataclass(frozen=True)
class Sense:
    """A world, and how one of its signals becomes pictures; or several senses of the same rooms."""

    world: str
    title: str
    data_module: str
    frames: int
    drawing: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()  # names of the senses
    patience: int = 1  # times the study's tuning steps

    @property
    def modality(self) -> str:
        """Name of its stream, which is that of its world."""
        return self.world

    @property
    def worlds(self) -> tuple[str, ...]:
        """The worlds that its media come from."""
        return tuple(SENSES[part].world for part in self.parts) or (self.world,)


SENSES: Final = {
    "audio": Sense("audio", "sound", "AudioDataModule", 2),
    "3d": Sense("3d", "depth, Turbo colours", "DepthDataModule", 1),
    "3d-gray": Sense("3d", "depth, gray", "DepthDataModule", 1, {"encoding": "gray"}),
    # One question a clip or two of each sense, not three or four: as many questions in all.
    "highfps": Sense("highfps", "high frame rate", "HighFrameRateDataModule", 4, patience=3),
    "ego": Sense("ego", "own view", "EgoDataModule", 2, patience=3),
    "both": Sense(
        "both",
        "sound and gray depth",
        "ModalityDataModule",
        2,
        {},
        ("audio", "3d-gray"),
        patience=2,
    ),
}


@dataclass(frozen=True)
class Place:
    """Where the study lies, and how much of it is run."""

    data: Path
    runs: Path
    clips: int = CLIPS
    held_out: int = HELD_OUT
    align_steps: int = 150
    tune_steps: int = 300

    def questions(self, worlds: Sequence[str], share: float = 1.0) -> Path:
        """Folder of the questions for these worlds, those of a share of the training clips."""
        return self.data / "questions" / f"{'-'.join(worlds)}-{share:g}"

    def _data(self, sense: Sense, seed: int, share: float = 1.0) -> list[str]:
        return [
            f"--data.class_path=datamodules.{sense.data_module}",
            *self._media(sense),
            "--data.benchmark=experiments.paper.questions.ToyQuestions",
            f"--data.benchmark.annotations={self.questions(sense.worlds, share)}",
            f"--data.frames={sense.frames}",
            "--data.num_workers=0",
            f"--data.seed={seed}",
            f"--data.cache_dir={self.runs / 'frames'}",
            *(f"--data.{name}={value}" for name, value in sense.drawing.items()),
        ]

    def _media(self, sense: Sense) -> list[str]:
        if not sense.parts:
            return [f"--data.root={self.data / sense.world}"]
        parts = [SENSES[part] for part in sense.parts]
        modalities = [
            {
                "class_path": f"datamodules.{part.data_module.removesuffix('DataModule')}",
                "init_args": {"root": str(self.data / part.world), "frames": part.frames}
                | part.drawing,
            }
            for part in parts
        ]
        return [
            f"--data.root={self.data / parts[0].world}",
            f"--data.modalities={json.dumps(modalities)}",
        ]


@dataclass(frozen=True)
class Alignment:
    """A vision adapter: ``options`` go to InterfaceAlignment, beside the study's own."""

    sense: str
    seed: int
    label: str = "full"
    options: tuple[str, ...] = ()
    videos: int = 500  # reference videos at most
    guidance: "Alignment | None" = None  # whose guidance it takes, instead of one of its own

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"align/{self.sense}-{self.label}-seed{self.seed}"

    @property
    def needs(self) -> "tuple[Alignment, ...]":
        """The runs that come before it."""
        return (self.guidance,) if self.guidance else ()

    def adapter(self, place: Place) -> Path:
        """Where its adapter comes to lie."""
        return place.runs / self.name / "adapters" / f"vision-{SENSES[self.sense].modality}"

    def result(self, place: Place) -> Path:
        """The file that marks it as finished."""
        return place.runs / self.name / "report.json"

    def command(self, place: Place) -> list[str]:
        """Arguments of ``vlynx``."""
        sense = SENSES[self.sense]
        return [
            "fit",
            f"--config={_BACKBONE}",
            f"--config=experiments/align/{sense.modality}.yaml",
            f"--config={_SIZE}",
            f"--run={place.runs / self.name}",
            f"--seed_everything={self.seed}",
            *place._data(sense, self.seed),
            "--data.batch_size=16",
            f"--trainer.max_steps={place.align_steps}",
            "--trainer.max_epochs=-1",
            "--trainer.limit_val_batches=0",
            "--model.learning_rate=5e-4",
            f"--trainer.callbacks={json.dumps([self._guidance(place)])}",
            *self.options,
        ]

    def _guidance(self, place: Place) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_batches": self.videos}
        if self.guidance:
            settings = {"path": str(place.runs / self.guidance.name / "guidance.safetensors")}
        return {"class_path": "callbacks.ReferenceGuidance", "init_args": settings}


@dataclass(frozen=True)
class Tuning:
    """An LLM adapter and its answers: what is read is ``method``, aligned or not.

    Of several senses at once, those are read that are in ``alignments``.
    """

    sense: str
    seed: int
    method: str
    alignments: tuple[Alignment, ...] = ()
    options: tuple[str, ...] = ()
    share: float = 1.0  # of the training clips
    label: str = ""  # of its options

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = [self.sense, self.method]
        parts += [
            (a.label if a.sense == self.sense else f"{a.sense}-{a.label}") for a in self.alignments
        ]
        if self.share < 1:
            parts.append(f"{self.share:g}")
        if self.label:
            parts.append(self.label)
        return f"tune/{'-'.join(parts)}-seed{self.seed}"

    @property
    def needs(self) -> tuple[Alignment, ...]:
        """The runs that come before it."""
        return tuple(run for each in self.alignments for run in (each, *each.needs))

    def result(self, place: Place) -> Path:
        """The file that marks it as finished."""
        return place.runs / self.name / "scores-val.json"

    def command(self, place: Place) -> list[str]:
        """Arguments of ``vlynx``."""
        sense = SENSES[self.sense]
        adapters = {SENSES[a.sense].modality: a.adapter(place) for a in self.alignments}
        read = (f"{name}: {adapter}" for name, adapter in adapters.items())
        reads = [f"--model.streams.modalities={{{', '.join(read) or f'{sense.modality}: base'}}}"]
        match self.method:
            case "lora-only" | "zero-shot":
                reads = ["--model.streams.modalities={}"]
            case "pave":
                reads = ["--model.streams=vlynx_pl.baselines.pave_streams.PatchedVideo"]
                reads += [f"--model.streams.side={sense.modality}"]
                reads += ["--model.streams.learning_rate=1e-2"]
            case "joint":
                reads += ["--model.streams.train_vision=true", "--model.streams.lora.rank=16"]
                reads += ["--model.streams.lora.alpha=32", "--model.streams.learning_rate=5e-4"]
        if self.method != "joint":  # what is trained along changes with every step
            reads += ["--trainer.callbacks+=callbacks.KeepTokens"]
            reads += [f"--trainer.callbacks.folder={place.runs / 'tokens'}"]
        return [
            "test" if self.method == "zero-shot" else "fit",
            f"--config={_BACKBONE}",
            "--config=experiments/paper/tune.yaml",
            f"--run={place.runs / self.name}",
            f"--seed_everything={self.seed}",
            *place._data(sense, self.seed, self.share),
            *reads,
            f"--trainer.max_steps={sense.patience * place.tune_steps}",
            *self.options,
        ]
