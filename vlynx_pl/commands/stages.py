"""``vlynx align``, ``tune`` and ``eval``, as arguments of ``vlynx fit`` and ``vlynx test``.

Their configurations lie in ``experiments/`` and are found by name: the backbone's, the stage's,
what this backbone changes in it, and what the toy world changes. The benchmark of a task says which
modality it is about, and which task is tuned on before it is answered.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Final, NamedTuple

from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.io.settings_files import check_settings_files
from vlynx_pl.runs.run_folder import plain_data

_TOY_WORLDS: Final = Path("data/toyworld")


@dataclass(frozen=True)
class Choices:
    """What the three commands have in common.

    Args:
        backbone: a file of ``experiments/backbones``.
        data: folder of the media; None is the toy world of the modality.
        runs: holds the runs whose folders are not given.
        seed: of everything, and part of the names of folders; None is the configuration's.
    """

    backbone: str
    data: Path | None
    runs: Path
    seed: int | None

    def toy(self, modality: str) -> bool:
        """Whether the media are those of the toy world."""
        return self.data in {None, _TOY_WORLDS / modality}

    def folder(self, name: str, modality: str) -> Path:
        """Of a run, such as ``runs/scanqa-miniature-toyworld``."""
        data = "toyworld" if self.data is None or self.toy(modality) else self.data.name
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return self.runs / f"{name}-{self.backbone}-{data}{seed}"

    def arguments(
        self, modality: str, stages: Iterable[tuple[str, str]], run: Path, *others: str
    ) -> list[str]:
        """Options of a run.

        Args:
            modality: what it reads beside the video.
            stages: folder and name of the configurations, each of which changes those before it.
            run: its folder.
            others: options that only some runs have.

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


class _Task(NamedTuple):
    """A task, the task that is tuned on before it is answered, and the modality of both."""

    name: str
    tuned: str
    modality: str


def align(modality: str, choices: Choices, run: Path | None) -> list[str]:
    """Arguments of an alignment.

    Args:
        modality: a file of ``experiments/align``.
        choices: those of all commands.
        run: its folder, None for the usual one.

    Raises:
        UserError: there is no such modality or backbone.
    """
    run = run or choices.folder(modality, modality)
    return ["fit", *choices.arguments(modality, [("align", modality)], run)]


def tune(
    name: str, choices: Choices, run: Path | None, aligned: Path | None, annotations: Path | None
) -> list[str]:
    """Arguments of the tuning on a task, or on the one that is tuned on before it is answered.

    Args:
        name: of a file of ``experiments/tune`` or ``experiments/eval``.
        choices: those of all commands.
        run: its folder, None for the usual one.
        aligned: folder of the alignment, None for the usual one.
        annotations: of the benchmark, None for those of the configuration.

    Raises:
        UserError: there is no such task or backbone.
    """
    task = _task(name)
    run = run or choices.folder(task.tuned, task.modality)
    others = _reads(task, choices, aligned, annotations)
    return ["fit", *choices.arguments(task.modality, [("tune", task.tuned)], run, *others)]


def evaluate(
    name: str,
    choices: Choices,
    run: Path | None,
    aligned: Path | None,
    annotations: Path | None,
    tuned: Path | None,
) -> list[str]:
    """Arguments of a test of a tuned task; those of ``tune``, and ``run`` is in ``tuned``.

    Args:
        name: as for ``tune``.
        choices: as for ``tune``.
        run: folder of the scores, None for one in ``tuned``.
        aligned: as for ``tune``.
        annotations: as for ``tune``.
        tuned: folder of the tuned run, None for the usual one.

    Raises:
        UserError: there is no such task or backbone.
    """
    task = _task(name)
    tuned = tuned or choices.folder(task.tuned, task.modality)
    stages = [("tune", task.tuned)] + ([("eval", name)] if task.tuned != name else [])
    adapter = f"--model.llm_adapter={tuned / 'adapters' / f'llm-{task.tuned}'}"
    others = [*_reads(task, choices, aligned, annotations), adapter]
    return [
        "test",
        *choices.arguments(task.modality, stages, run or tuned / f"eval-{name}", *others),
    ]


def _reads(
    task: _Task, choices: Choices, aligned: Path | None, annotations: Path | None
) -> list[str]:
    """What a task reads: the modality by its adapter, and annotations."""
    run = aligned or choices.folder(task.modality, task.modality)
    adapter = str(run / "adapters" / f"vision-{task.modality}")
    options = [f"--model.streams.modalities={json.dumps({task.modality: adapter})}"]
    if annotations is not None:
        options.append(f"--data.benchmark.init_args.annotations={annotations}")
    return options


def _task(name: str) -> _Task:
    path = _configuration(name, "tune", "eval")
    check_settings_files([f"--config={path}"])
    try:
        benchmark = resolve_name(plain_data(path)["data"]["init_args"]["benchmark"]["class_path"])
        if not benchmark.modality:
            raise LookupError(f"{benchmark.__name__}.modality is empty")
        return _Task(name, benchmark.tuned_on or name, benchmark.modality)
    except (*PARSE_ERRORS, AttributeError, ImportError) as error:
        raise UserError(
            f"{path} names no benchmark that says its modality ({error!r}); see "
            "experiments/tune/scanqa.yaml, or run it with vlynx fit --config"
        ) from error


def _path(folder: str, name: str) -> Path:
    return Path("experiments", folder, f"{name}.yaml")


def _configuration(name: str, *folders: str) -> Path:
    """The file of a name in the first folder that has it; raises UserError where none does."""
    paths = [_path(folder, name) for folder in folders]
    if found := [path for path in paths if path.is_file()]:
        return found[0]
    known = sorted(other.stem for path in paths for other in path.parent.glob("*.yaml"))
    remedy = f"give one of {', '.join(known)}" if known else "run vlynx where experiments/ is"
    raise UserError(f"{paths[0]} is not there; {remedy}")
