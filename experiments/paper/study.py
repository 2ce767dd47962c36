"""The runs of the study: modalities, alignments and tunings.

A run is a command of ``vlynx`` in its own folder, so that every number can be traced to its
configuration, its answers and its provenance. All settings except ``patience`` were chosen on
worlds of another seed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

_VLYNX: Final = "vlynx_pl.commands.cli"
MAPS: Final = ("shift", "scale", "transport", "colouring")  # see moments.py
CLIPS: Final = 1000
HELD_OUT: Final = 250  # the last of them
WORLD_SEED: Final = 10
BATCH: Final = 16  # clips per step of an alignment


@dataclass(frozen=True)
class StudyModality:
    """A world and how one of its signals becomes frames, or several modalities of its rooms."""

    world: str
    title: str
    data_module: str
    frames: int
    rendering: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()  # names of the modalities
    patience: int = 1  # factor of the number of tuning steps
    asked: str = ""  # the questions, see questions.py; empty for those of the world

    @property
    def worlds(self) -> tuple[str, ...]:
        return tuple(MODALITIES[part].world for part in self.parts) or (self.world,)

    @property
    def questions(self) -> tuple[str, ...]:
        return (self.asked,) if self.asked else self.worlds


MODALITIES: Final = {
    "audio": StudyModality("audio", "sound", "AudioDataModule", 2),
    "3d": StudyModality("3d", "depth, Turbo colours", "DepthDataModule", 1),
    "3d-gray": StudyModality("3d", "depth, gray", "DepthDataModule", 1, {"encoding": "gray"}),
    # Patience makes up for fewer questions per clip: one, or two of each modality.
    "highfps": StudyModality(
        "highfps", "high frame rate", "HighFrameRateDataModule", 4, patience=3
    ),
    "ego": StudyModality("ego", "egocentric view", "EgoDataModule", 2, patience=3),
    "both": StudyModality(
        "both",
        "sound and gray depth",
        "ModalityDataModule",
        2,
        parts=("audio", "3d-gray"),
        patience=2,
    ),
    "rgb": StudyModality("3d", "what RGB shows", "DepthDataModule", 1, asked="rgb"),
}


@dataclass(frozen=True)
class Study:
    """The folders of the study, and its size."""

    data: Path
    runs: Path
    clips: int = CLIPS
    held_out: int = HELD_OUT
    align_steps: int = 150
    tune_steps: int = 300
    backbone: str = "miniature"  # a file of experiments/backbones

    def questions(self, about: Sequence[str], share: float = 1.0) -> Path:
        """Return the folder of questions of these kinds about a share of the training clips."""
        return self.data / "questions" / f"{'-'.join(about)}-{share:g}"

    def data_options(self, name: str, seed: int, share: float = 1.0) -> list[str]:
        """Return the options of ``vlynx`` that configure the data of a modality."""
        modality = MODALITIES[name]
        return [
            f"--data.class_path=datamodules.{modality.data_module}",
            *self._media(modality),
            "--data.benchmark=experiments.paper.questions.ToyQuestions",
            f"--data.benchmark.annotations={self.questions(modality.questions, share)}",
            f"--data.frames={modality.frames}",
            "--data.num_workers=0",
            f"--data.seed={seed}",
            f"--data.cache_dir={self.runs / 'frames'}",
            *(f"--data.{name}={value}" for name, value in modality.rendering.items()),
        ]

    def alignment_options(self, name: str, seed: int) -> list[str]:
        """Return the options of ``vlynx`` that configure the alignment of a modality."""
        return [
            f"--config=experiments/backbones/{self.backbone}.yaml",
            f"--config=experiments/align/{MODALITIES[name].world}.yaml",
            f"--config=experiments/align/backbones/{self.backbone}.yaml",
            *self.data_options(name, seed),
            f"--data.batch_size={BATCH}",
        ]

    def _media(self, modality: StudyModality) -> list[str]:
        if not modality.parts:
            return [f"--data.root={self.data / modality.world}"]
        parts = [MODALITIES[part] for part in modality.parts]
        modalities = [
            {
                "class_path": f"datamodules.{part.data_module.removesuffix('DataModule')}",
                "init_args": {"root": str(self.data / part.world), "frames": part.frames}
                | part.rendering,
            }
            for part in parts
        ]
        return [
            f"--data.root={self.data / parts[0].world}",
            f"--data.modalities={json.dumps(modalities)}",
        ]


@dataclass(frozen=True)
class AlignmentRun:
    """The alignment of a vision adapter; ``options`` are added to the study's own."""

    module: ClassVar = _VLYNX
    modality: str
    seed: int
    label: str = "full"
    options: tuple[str, ...] = ()
    videos: int = 500  # limit of reference videos
    guidance: "AlignmentRun | None" = None  # the run whose guidance it uses; None: its own

    @property
    def name(self) -> str:
        return f"align/{self.modality}-{self.label}-seed{self.seed}"

    @property
    def needs(self) -> "tuple[AlignmentRun, ...]":
        """Return the runs that must come first."""
        return (self.guidance,) if self.guidance else ()

    def adapter(self, study: Study) -> Path:
        """Return the folder of its adapter."""
        return study.runs / self.name / "adapters" / f"vision-{MODALITIES[self.modality].world}"

    def result(self, study: Study) -> Path:
        """Return the file that marks it as finished."""
        return study.runs / self.name / "report.json"

    def command(self, study: Study) -> list[str]:
        return [
            "fit",
            *study.alignment_options(self.modality, self.seed),
            f"--run={study.runs / self.name}",
            f"--seed_everything={self.seed}",
            f"--trainer.max_steps={study.align_steps}",
            "--trainer.max_epochs=-1",
            "--trainer.limit_val_batches=0",
            "--model.learning_rate=5e-4",
            f"--trainer.callbacks={json.dumps([self._guidance(study)])}",
            *self.options,
        ]

    def _guidance(self, study: Study) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_batches": self.videos}
        if self.guidance:
            settings = {"path": str(study.runs / self.guidance.name / "guidance.safetensors")}
        return {"class_path": "callbacks.ReferenceGuidance", "init_args": settings}


@dataclass(frozen=True)
class MomentsRun:
    """The moments of a modality's raw tokens and of video tokens, for training-free maps."""

    module: ClassVar = "experiments.paper.moments"
    needs: ClassVar[tuple[AlignmentRun, ...]] = ()
    modality: str
    seed: int

    @property
    def name(self) -> str:
        return f"moments/{self.modality}-seed{self.seed}"

    def result(self, study: Study) -> Path:
        """Return the file that marks it as finished."""
        return study.runs / self.name / "moments.json"

    def command(self, study: Study) -> list[str]:
        options = study.alignment_options(self.modality, self.seed)
        return [str(study.runs / self.name), *options]


@dataclass(frozen=True)
class TuningRun:
    """The tuning of an LLM adapter, and its answers; ``method`` says what the LLM reads.

    Of several modalities at once, it reads those of ``alignments``.
    """

    module: ClassVar = _VLYNX
    modality: str
    seed: int
    method: str
    alignments: tuple[AlignmentRun, ...] = ()
    options: tuple[str, ...] = ()
    share: float = 1.0  # of the training clips
    label: str = ""  # names the options
    tuned: "TuningRun | None" = None  # the run that only answers again, with these options

    @property
    def name(self) -> str:
        parts = [self.modality, self.method]
        parts += [
            a.label if a.modality == self.modality else f"{a.modality}-{a.label}"
            for a in self.alignments
        ]
        if self.share < 1:
            parts.append(f"{self.share:g}")
        if self.label:
            parts.append(self.label)
        return f"tune/{'-'.join(parts)}-seed{self.seed}"

    @property
    def needs(self) -> "tuple[AlignmentRun | MomentsRun | TuningRun, ...]":
        """Return the runs that must come first."""
        if self.tuned:
            return (*self.tuned.needs, self.tuned)
        moments = (MomentsRun(self.modality, self.seed),) if self.method in MAPS else ()
        return tuple(run for each in self.alignments for run in (each, *each.needs)) + moments

    @property
    def adapters(self) -> str:
        """Name of the run that has the LLM's adapter."""
        return (self.tuned or self).name

    def result(self, study: Study) -> Path:
        """Return the file that marks it as finished."""
        return study.runs / self.name / "scores-val.json"

    def command(self, study: Study) -> list[str]:
        own = MODALITIES[self.modality]
        adapters = {MODALITIES[a.modality].world: a.adapter(study) for a in self.alignments}
        read = (f"{name}: {adapter}" for name, adapter in adapters.items())
        reads = [f"--model.streams.modalities={{{', '.join(read) or f'{own.world}: base'}}}"]
        match self.method:
            case "lora-only" | "zero-shot":
                reads = ["--model.streams.modalities={}"]
            case "pave":
                reads = ["--model.streams=vlynx_pl.baselines.pave_streams.PatchedVideo"]
                reads += [f"--model.streams.side={own.world}"]
                reads += ["--model.streams.learning_rate=1e-2"]
            case "named":
                reads = ["--model.streams=experiments.paper.variants.NamedStreams", *reads]
            case "joint" | "along":
                reads += ["--model.streams.train_vision=true", "--model.streams.lora.rank=16"]
                reads += ["--model.streams.lora.alpha=32", "--model.streams.learning_rate=5e-4"]
            case how if how in MAPS:
                [moments] = self.needs
                reads = ["--model.streams=experiments.paper.moments.MatchedMoments"]
                reads += [f"--model.streams.modality={own.world}", f"--model.streams.how={how}"]
                reads += [f"--model.streams.moments={study.runs / moments.name}"]
        if self.method not in {"joint", "along"}:  # there, tokens change with every step
            reads += ["--trainer.callbacks+=callbacks.KeepTokens"]
            reads += [f"--trainer.callbacks.folder={study.runs / 'tokens'}"]
        # The study has video-only runs to compare with.
        reads += ["--trainer.callbacks+=callbacks.AnswerScores", "--trainer.callbacks.probe=false"]
        if self.tuned:
            reads += [f"--model.llm_adapter={study.runs / self.adapters / 'adapters' / 'llm-toy'}"]
        return [
            "test" if self.tuned or self.method == "zero-shot" else "fit",
            f"--config=experiments/backbones/{study.backbone}.yaml",
            "--config=experiments/paper/tune.yaml",
            f"--run={study.runs / self.name}",
            f"--seed_everything={self.seed}",
            *study.data_options(self.modality, self.seed, self.share),
            *reads,
            f"--trainer.max_steps={own.patience * study.tune_steps}",
            *self.options,
        ]
