"""``vlynx fit`` and ``vlynx test``: LightningCLI with a backbone and one folder per run.

A configuration has four parts: ``backbone`` (the frozen Video LLM), ``model`` (the stage), ``data``
(the modality) and ``trainer``; ``run`` is the folder that all output is written into.
"""

import shlex
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Final

import yaml
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from rich.console import Console
from rich.markup import escape
from typing_extensions import override

from callbacks import (
    AdapterCheckpoint,
    AlignmentReport,
    AnswerScores,
    ProgressLines,
    Provenance,
    ReferenceGuidance,
    RunCheckpoint,
    Throughput,
    TrainingFaults,
    UsualTokens,
)
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.commands.configuration import explain_errors, prepare
from vlynx_pl.commands.plan.printing import estimate
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_file
from vlynx_pl.io.progress import on_terminal
from vlynx_pl.runs.checkpoints import checkpoints, newest_checkpoint, read_checkpoint
from vlynx_pl.runs.metrics_log import MetricsLog
from vlynx_pl.runs.run_folder import (
    lock_run_folder,
    plain_data,
    refuse_finished,
    refuse_other_settings,
)
from vlynx_pl.tuning import InstructionTuning

_RESULTS: Final = {
    InterfaceAlignment: (ReferenceGuidance, AdapterCheckpoint, AlignmentReport),
    InstructionTuning: (AdapterCheckpoint, AnswerScores),
}
"""Stage → the callbacks that make and save its results, in the order in which they must run."""


class _KeptConfiguration(SaveConfigCallback):
    """Writes ``config.yaml`` atomically, as a run cannot resume without it."""

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with atomic_file(Path(trainer.default_root_dir) / "config.yaml") as unfinished:
            unfinished.write_text(self.parser.dump(self.config, skip_none=False))


class VlynxCLI(LightningCLI):
    """LightningCLI with a ``backbone`` group and one folder per run."""

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        everything = LightningCLI.subcommands()
        return {name: everything[name] for name in ("fit", "test")}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--backbone", type=VideoBackbone, required=True)
        parser.add_argument("--run", type=str, default="runs/unnamed", help="folder of the run")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.link_arguments("backbone", "model.init_args.backbone", apply_on="instantiate")
        parser.link_arguments(
            "backbone",
            "data.init_args.frame_size",
            lambda backbone: backbone.frame_size,
            apply_on="instantiate",
        )

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning would load the file unchecked, and take the model's arguments from it.
        what = self.config["subcommand"]
        if (given := self.config[what]["ckpt_path"]) is None:
            return
        if what == "test":
            raise UserError(
                "vlynx test reads an adapter, not a checkpoint: leave --ckpt_path out, and give "
                "--model.llm_adapter=RUN/adapters/llm-TASK"
            )
        read_checkpoint(Path(given))

    @override
    def before_instantiate_classes(self) -> None:
        run = Path(self._get(self.config, "run"))
        if self._get(self.config, "trainer").fast_dev_run:
            return
        first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        if first:
            self._lock = lock_run_folder(run)
        refuse_finished(run)
        for other in run.glob("hpc_ckpt_*"):
            raise UserError(
                f"{other} is not a checkpoint of V-LynX, but Lightning would load it; remove it"
            )
        if self.subcommand == "fit" and not checkpoints(run):
            if first:  # left by a run that cannot be resumed
                (run / "metrics.csv").unlink(missing_ok=True)
        elif self.subcommand == "fit":
            settings = self.config["fit"]
            saved_as = self._parser("fit").dump(settings, skip_none=False)
            refuse_other_settings(run, yaml.safe_load(saved_as))

    def before_fit(self) -> None:
        """Resume the run in the folder; called by Lightning before a fit.

        A given checkpoint is used only if the run has none of its own.
        """
        settings = self.config_init["fit"]
        settings["weights_only"] = True
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        found, damaged = newest_checkpoint(Path(settings["run"]))
        for what in damaged:
            rank_zero_warn(what)
        if found is not None:
            rank_zero_info(f"Going on from {found}")
            settings["ckpt_path"] = str(found)

    @override
    def instantiate_classes(self) -> None:
        with explain_errors("these settings"):
            super().instantiate_classes()
        if isinstance(self.model, InstructionTuning):
            self.datamodule.unfit = self.model.unfit

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # Not part of the configuration, so that a saved one can be used in another folder.
        run = Path(self._get(self.config, "run"))
        settings = self._get(self.config_init, "trainer")
        if settings.barebones or settings.accumulate_grad_batches < 1:
            raise UserError(
                "--trainer.barebones=true disables checkpoints and logs, and "
                "--trainer.accumulate_grad_batches=0 makes no step; leave them out"
            )
        own = settings.callbacks if isinstance(settings.callbacks, list) else [settings.callbacks]
        kwargs["callbacks"] = [
            UsualTokens(),
            *_with_results(self.model, [one for one in own if one is not None]),
        ]
        if settings.logger is None:
            kwargs["logger"] = [
                MetricsLog(run),
                TensorBoardLogger(run.parent, run.name, "", sub_dir="tensorboard"),
            ]
        usual = signature(Trainer).parameters
        given = [f"{k}={v}" for k, v in settings.items() if k in usual and v != usual[k].default]
        with explain_errors(f"these settings of the trainer ({', '.join(given)})"):
            trainer = super().instantiate_trainer(
                default_root_dir=str(run), use_distributed_sampler=False, **kwargs
            )
        if getattr(trainer.strategy, "_start_method", "") == "fork":
            raise UserError(
                "trainer.strategy forks this process after torch has run in it, so that its "
                "children may hang or crash; use --trainer.strategy=ddp"
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks += [Provenance(), TrainingFaults(self._estimate), Throughput()]
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar) and not on_terminal():
            callbacks[callbacks.index(bar)] = ProgressLines()
        return trainer

    def _estimate(self) -> str:
        """Say what a step needs by vlynx plan, which takes a minute for a large model."""
        saved = Path(self._get(self.config, "run")) / "config.yaml"
        if not saved.is_file():  # in a fast_dev_run
            return ""
        return estimate(plain_data(saved), self.trainer.strategy.root_device)

    def after_fit(self) -> None:
        """Show the results; called by Lightning after a fit."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AlignmentReport) and self.trainer.is_global_zero:
                callback.show()
                self._suggest_next_command()

    def _suggest_next_command(self) -> None:
        run = self._get(self.config, "run")
        lines = [f"Everything is in [bold]{escape(run)}[/]; look at alignment.png first."]
        name, weight = self.model.objective.safeguard
        if weight > 0:
            option = f"--model.objective.{name}"
            again = [*_without(sys.argv, "--run", "--ckpt_path", option), f"{option}=0"]
            again.append(f"--run={run}-attention-only")
            lines += [
                "Next, see what the attention loss does alone:",
                f"  [bold]{escape(shlex.join(again))}[/]",
            ]
        Console().print("\n".join(lines), soft_wrap=True)


def _with_results(model: LightningModule, given: Sequence[Callback]) -> list[Callback]:
    """Add the stage's missing callbacks, and sort so that those of the stage run last.

    The last one marks the run as finished, so all others must have run before.
    """
    kinds = [kind for stage, each in _RESULTS.items() if isinstance(model, stage) for kind in each]
    missing = [kind() for kind in kinds if not any(isinstance(one, kind) for one in given)]

    def position(callback: Callback) -> int:
        return next((i for i, kind in enumerate(kinds, 1) if isinstance(callback, kind)), 0)

    return sorted([*given, *missing], key=position)


def _without(arguments: list[str], *options: str) -> list[str]:
    """Remove options, given as ``--a=value`` or ``--a value``, from a command line."""
    kept = []
    skip = False
    for argument in arguments:
        if not skip and argument.split("=")[0] not in options:
            kept.append(argument)
        skip = argument in options
    return kept


def run(arguments: list[str]) -> None:
    """Run ``vlynx fit`` or ``vlynx test`` with these arguments, of which it is the first."""
    prepare(arguments)
    usage = "--config BACKBONE.yaml --config STAGE.yaml [--run DIR] [--KEY=VALUE ...]"
    VlynxCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=42,
        auto_configure_optimizers=False,
        save_config_callback=_KeptConfiguration,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs={name: {"usage": f"vlynx {name} {usage}"} for name in ("fit", "test")},
        args=arguments,
    )
