"""``vlynx align``, ``tune`` and ``eval``, as arguments of ``vlynx fit`` and ``vlynx test``.

Their configurations are found by name in ``experiments/``: the backbone's, the stage's, what this
backbone changes in it, and what the toy world changes. A task's benchmark names its modality and
the task that is tuned on before it is evaluated.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.settings_files import check_settings_files
from vlynx_pl.runs.run_folder import plain_data

_TOY_WORLDS: Final = Path("data/toyworld")


@dataclass(frozen=True)
class Choices:
    """Options of the three commands; a folder that is None has its usual name in ``runs``.

    Args:
        backbone: a file of ``experiments/backbones``.
        runs: folder of runs.
        seed: of everything, and part of the names of folders; None is the configuration's.
        data: folder of the media; None is the toy world of the modality.
        annotations: folder of the benchmark's files; None is the configuration's.
        aligned: folder of the alignment.
        tuned: folder of the tuned run.
        run: folder that the command writes; that of ``eval`` is in ``tuned``.
    """

    backbone: str
    runs: Path
    seed: int | None = None
    data: Path | None = None
    annotations: Path | None = None
    aligned: Path | None = None
    tuned: Path | None = None
    run: Path | None = None

    def toy(self, modality: str) -> bool:
        """Whether the media are those of the toy world."""
        return self.data in {None, _TOY_WORLDS / modality}

    def folder(self, name: str, modality: str) -> Path:
        """The usual folder of a run, such as ``runs/scanqa-miniature-toyworld``."""
        data = "toyworld" if self.data is None or self.toy(modality) else self.data.name
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return self.runs / f"{name}-{self.backbone}-{data}{seed}"

    def arguments(
        self, modality: str, stages: Iterable[tuple[str, str]], run: Path, *others: str
    ) -> list[str]:
        """Arguments of a run.

        Args:
            modality: the one that it reads beside the video.
            stages: folder and name of the configurations, each of which changes those before it.
            run: its folder.
            others: further options.

        Raises:
            UserError: a configuration is missing.
        """
        files = [_configuration(self.backbone, "backbones")]
        for stage, name in stages:
            files.append(_configuration(name, stage))
            changes = [_path(f"{stage}/backbones", self.backbone)]
            changes += [_path(f"{stage}/toyworld", name)] if self.toy(modality) else []
            files += [path for path in changes if path.is_file()]
        root = () if self.toy(modality) else (f"--data.root={self.data}",)
        seed = () if self.seed is None else (f"--seed_everything={self.seed}",)
        return [*(f"--config={path}" for path in files), *root, *others, *seed, f"--run={run}"]

    def inputs(self, modality: str) -> list[str]:
        """Options for what a task reads: the aligned adapter, and annotations."""
        run = self.aligned or self.folder(modality, modality)
        adapter = str(run / "adapters" / f"vision-{modality}")
        options = [f"--model.streams.modalities={json.dumps({modality: adapter})}"]
        if self.annotations is not None:
            options.append(f"--data.benchmark.init_args.annotations={self.annotations}")
        return options


def align(modality: str, choices: Choices) -> list[str]:
    """Return the arguments of an alignment.

    Raises:
        UserError: ``experiments/`` has no such modality or backbone.
    """
    run = choices.run or choices.folder(modality, modality)
    return ["fit", *choices.arguments(modality, [("align", modality)], run)]


def tune(name: str, choices: Choices) -> list[str]:
    """Return the arguments of tuning on a task, or on the task that stands in for it.

    Raises:
        UserError: ``experiments/`` has no such task or backbone.
    """
    task, modality = _task(name)
    run = choices.run or choices.folder(task, modality)
    others = choices.inputs(modality)
    return ["fit", *choices.arguments(modality, [("tune", task)], run, *others)]


def evaluate(name: str, choices: Choices, baseline: bool = False) -> list[str]:
    """Return the arguments of the evaluation of a task.

    Args:
        name: of the task.
        choices: options of the command.
        baseline: also ask the untuned backbone.

    Raises:
        UserError: ``experiments/`` has no such task or backbone.
    """
    task, modality = _task(name)
    tuned = choices.tuned or choices.folder(task, modality)
    stages = [("tune", task)] + ([("eval", name)] if task != name else [])
    others = [
        *choices.inputs(modality),
        f"--model.llm_adapter={tuned / 'adapters' / f'llm-{task}'}",
    ]
    if baseline:
        others += ["--trainer.callbacks+=callbacks.AnswerScores"]
        others += ["--trainer.callbacks.baseline=true"]
    run = choices.run or tuned / f"eval-{name}"
    return ["test", *choices.arguments(modality, stages, run, *others)]


def _task(name: str) -> tuple[str, str]:
    """Return the task that is tuned on before ``name`` is evaluated, and its modality."""
    path = _configuration(name, "tune", "eval")
    check_settings_files([f"--config={path}"])
    try:
        benchmark = resolve_name(plain_data(path)["data"]["init_args"]["benchmark"]["class_path"])
        if not benchmark.modality:
            raise LookupError(f"{benchmark.__name__}.modality is empty")
        return benchmark.tuned_on or name, benchmark.modality
    except (*PARSE_ERRORS, AttributeError, ImportError) as error:
        raise UserError(
            f"{path} does not name a benchmark with a modality ({error!r}); see "
            "experiments/tune/scanqa.yaml, or run it with vlynx fit --config"
        ) from error


def _path(folder: str, name: str) -> Path:
    return Path("experiments", folder, f"{name}.yaml")


def _configuration(name: str, *folders: str) -> Path:
    """Find a configuration in the first folder that has it; raise UserError if none has."""
    paths = [_path(folder, name) for folder in folders]
    if found := [path for path in paths if path.is_file()]:
        return found[0]
    known = sorted(other.stem for path in paths for other in path.parent.glob("*.yaml"))
    remedy = f"give one of {', '.join(known)}" if known else "run vlynx where experiments/ is"
    raise UserError(f"{paths[0]} does not exist; {remedy}")
