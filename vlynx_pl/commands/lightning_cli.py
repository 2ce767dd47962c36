"""``vlynx fit`` and its kin: LightningCLI with a backbone of its own and one folder a run.

A configuration has four parts: ``backbone`` (the frozen Video LLM), ``model`` (the stage), ``data``
(the modality) and ``trainer``; ``run`` names the folder that everything is written into.
"""

import logging
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Final

import yaml
from jsonargparse import SUPPRESS, ArgumentParser
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
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
    TrainingFaults,
)
from datamodules.base import ModalityDataModule
from vlynx_pl.alignment import InterfaceAlignment
from vlynx_pl.backbones import VideoBackbone
from vlynx_pl.io.errors import PARSE_ERRORS, UserError, root_cause, unwrap_user_error
from vlynx_pl.io.files import atomic_file, readable
from vlynx_pl.io.progress import on_terminal
from vlynx_pl.io.settings_files import check_settings_files
from vlynx_pl.runs.checkpoints import checkpoints, newest_checkpoint, read_checkpoint
from vlynx_pl.runs.metrics_log import MetricsLog
from vlynx_pl.runs.run_folder import lock_run_folder, refuse_finished, refuse_other_settings
from vlynx_pl.tuning import InstructionTuning

_RESULTS: Final = {
    InterfaceAlignment: (ReferenceGuidance, AdapterCheckpoint, AlignmentReport),
    InstructionTuning: (AdapterCheckpoint, AnswerScores),
}
"""Stage → the callbacks that make and save its results, in the order in which they must act."""


class _KeptConfiguration(SaveConfigCallback):
    """Writes ``config.yaml`` whole or not at all: without it a run cannot go on."""

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with atomic_file(Path(trainer.default_root_dir) / "config.yaml") as unfinished:
            unfinished.write_text(self.parser.dump(self.config, skip_none=False))


class VlynxCLI(LightningCLI):
    """LightningCLI with a backbone of its own group and one folder a run."""

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        everything = LightningCLI.subcommands()
        return {name: everything[name] for name in ("fit", "test")}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--backbone", type=VideoBackbone, required=True)
        parser.add_argument(
            "--run", type=str, default="runs/unnamed", help="folder that a run is written into"
        )
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.link_arguments("backbone", "model.init_args.backbone", apply_on="instantiate")
        parser.link_arguments(
            "backbone", "data.init_args.frame_size", _frame_size, apply_on="instantiate"
        )

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning would load the file as it is, and let it say what model is made.
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
                f"{other} is no checkpoint of ours, and Lightning would take it; remove it"
            )
        if self.subcommand == "fit" and not checkpoints(run):
            if first:  # what was logged is of a run that cannot go on
                (run / "metrics.csv").unlink(missing_ok=True)
        elif self.subcommand == "fit":
            settings = self.config["fit"]
            saved_as = self._parser("fit").dump(settings, skip_none=False)
            refuse_other_settings(run, yaml.safe_load(saved_as))

    def before_fit(self) -> None:
        """Lightning calls this before a fit: it goes on where the run in the folder was stopped.

        A checkpoint that is given is where a run begins that has none of its own.
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
        with _told("these settings"):
            super().instantiate_classes()
        if isinstance(self.model, InstructionTuning):
            self.datamodule.unfit = self.model.unfit

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # Not a part of the configuration, so that a saved one can be run into another folder.
        run = Path(self._get(self.config, "run"))
        settings = self._get(self.config_init, "trainer")
        if settings.barebones or settings.accumulate_grad_batches < 1:
            raise UserError(
                "--trainer.barebones=true leaves out all that makes a run, and "
                "--trainer.accumulate_grad_batches=0 has no step; leave them out"
            )
        own = settings.callbacks if isinstance(settings.callbacks, list) else [settings.callbacks]
        kwargs["callbacks"] = _with_results(self.model, [one for one in own if one is not None])
        if settings.logger is None:
            kwargs["logger"] = [
                MetricsLog(run),
                TensorBoardLogger(run.parent, run.name, "", sub_dir="tensorboard"),
            ]
        usual = signature(Trainer).parameters
        given = [f"{k}={v}" for k, v in settings.items() if k in usual and v != usual[k].default]
        with _told(f"these settings of the trainer ({', '.join(given)})"):
            trainer = super().instantiate_trainer(
                default_root_dir=str(run), use_distributed_sampler=False, **kwargs
            )
        if getattr(trainer.strategy, "_start_method", "") == "fork":
            raise UserError(
                "trainer.strategy forks this process, which has run torch already, so that its "
                "children may hang or end; use --trainer.strategy=ddp"
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks += [Provenance(), TrainingFaults()]
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar) and not on_terminal():  # a log holds no bar
            callbacks[callbacks.index(bar)] = ProgressLines()
        return trainer

    def after_fit(self) -> None:
        """Lightning calls this when a fit is over."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AlignmentReport) and self.trainer.is_global_zero:
                callback.show()
                self._say_what_next()

    def _say_what_next(self) -> None:
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


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell what a library has against settings, without a traceback and a parser's guesses."""
    try:
        with unwrap_user_error():
            yield
    except UserError:
        raise
    except (MisconfigurationException, RuntimeError, *PARSE_ERRORS) as error:
        reason = str(root_cause(error)).strip(" .")
        if reason.startswith("Expected a"):  # the last of a parser's guesses; it names all others
            reason = str(error)
        raise UserError(f"{what} cannot be used: {reason}") from error


def _with_results(model: LightningModule, given: Sequence[Callback]) -> list[Callback]:
    """A user's callbacks, and those of the stage that are not among them, which act last.

    So a run is not marked as finished before all others have done their part.
    """
    kinds = [kind for stage, each in _RESULTS.items() if isinstance(model, stage) for kind in each]
    missing = [kind() for kind in kinds if not any(isinstance(one, kind) for one in given)]

    def turn(callback: Callback) -> int:
        return next((i for i, kind in enumerate(kinds, 1) if isinstance(callback, kind)), 0)

    return sorted([*given, *missing], key=turn)


def _without(arguments: list[str], *options: str) -> list[str]:
    """The command line without these options, given as ``--a=value`` or ``--a value``."""
    kept = []
    skip = False
    for argument in arguments:
        if not skip and argument.split("=")[0] not in options:
            kept.append(argument)
        skip = argument in options
    return kept


def _frame_size(backbone: VideoBackbone) -> tuple[int, int]:
    return backbone.frame_size


def run(arguments: list[str]) -> None:
    """Run ``vlynx fit`` or ``vlynx test`` with these arguments, of which it is the first."""
    _quieten()
    _refuse_bytes(arguments)
    check_settings_files(arguments)
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


def data_module(arguments: list[str]) -> ModalityDataModule:
    """The data module that a run with these arguments would use; nothing else is made."""
    _quieten()
    _refuse_bytes(arguments)
    parser = ArgumentParser(prog="vlynx check", description="Options of the data module.")
    parser.add_argument("--config", action="config", help="a configuration of a run, or of data")
    parser.add_subclass_arguments(ModalityDataModule, "data", required=True)
    for part in ("backbone", "model", "trainer", "checkpoint"):  # of a run; they are not looked at
        parser.add_argument(f"--{part}", type=dict[str, Any] | None, help=SUPPRESS)
    parser.add_argument("--run", type=str, help=SUPPRESS)
    check_settings_files(arguments)
    with _told("these settings"):
        made: ModalityDataModule = parser.instantiate_classes(parser.parse_args(arguments)).data
    return made


def _refuse_bytes(arguments: Iterable[str]) -> None:
    """Raise UserError for a name that no YAML can hold; files within a folder may have such."""
    for argument in arguments:
        if argument != (shown := readable(argument)):
            raise UserError(
                f"{shown}: the name is not UTF-8, as a configuration must be; rename the folder, "
                "or make a link to it with another name (ln -s) and give that"
            )


def _quieten() -> None:
    """Keep the screen for what matters: a frozen model is meant, advertisements are not."""
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
    warnings.filterwarnings("ignore", ".*resuming from a checkpoint that ended before the epoch")
    warnings.filterwarnings("ignore", "The `srun` command is available")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")  # lightning's own, torch >= 2.13
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
