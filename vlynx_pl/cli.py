"""The door: ``vlynx fit`` through LightningCLI, and the small commands beside it.

The only file that knows all wings. A configuration has four parts: ``backbone`` (the frozen Video
LLM), ``model`` (the stage), ``data`` (the modality) and ``trainer``; ``run`` names the folder that
everything is written into.
"""

import logging
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.markup import escape
from typing_extensions import override

from callbacks import AlignmentReport
from datamodules.samples import BadSample
from vlynx_pl.adapters import AdapterError
from vlynx_pl.backbones import BackboneError, VideoBackbone
from vlynx_pl.guidance import GuidanceError


class RunFolderError(ValueError):
    """The run folder cannot be written into."""


class VlynxCLI(LightningCLI):
    """LightningCLI with a backbone of its own group and one folder a run."""

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        return {"fit": LightningCLI.subcommands()["fit"]}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--backbone", type=VideoBackbone, required=True)
        parser.add_argument(
            "--run", type=str, default="runs/unnamed", help="folder that a run is written into"
        )
        parser.link_arguments("backbone", "model.init_args.backbone", apply_on="instantiate")
        parser.link_arguments(
            "backbone", "data.init_args.frame_size", _frame_size, apply_on="instantiate"
        )

    @override
    def before_instantiate_classes(self) -> None:
        run = Path(self._get(self.config, "run"))
        if (run / "report.json").exists():
            raise RunFolderError(
                f"{run} already holds a finished run; choose another folder with --run=FOLDER "
                "(make: RUN=FOLDER), or move the old one away"
            )

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # Not a part of the configuration, so that a saved one can be run into another folder.
        run = Path(self._get(self.config, "run"))
        if self._get(self.config, "trainer").logger is None:
            kwargs["logger"] = [
                CSVLogger(run.parent, run.name, ""),
                TensorBoardLogger(run.parent, run.name, "", sub_dir="tensorboard"),
            ]
        return super().instantiate_trainer(default_root_dir=str(run), **kwargs)

    def after_fit(self) -> None:
        """Lightning calls this when a fit is over."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, AlignmentReport) and self.trainer.is_global_zero:
                callback.show()
                self._say_what_next()

    def _say_what_next(self) -> None:
        run = self._get(self.config, "run")
        lines = [f"Everything is in [bold]{escape(run)}[/]; look at alignment.png first."]
        if self.model.stat_weight > 0:
            again = [
                *_without(sys.argv, "--run", "--ckpt_path", "--model.stat_weight"),
                "--model.stat_weight=0",
            ]
            again.append(f"--run={run}-attention-only")
            lines += [
                "Next, see what the attention loss does alone:",
                f"  [bold]{escape(shlex.join(again))}[/]",
            ]
        Console().print("\n".join(lines), soft_wrap=True)


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


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
prepare = typer.Typer(help="Bring other recordings into ScanNet's exported layout.")
app.add_typer(prepare, name="prepare")
# LightningCLI parses this command itself, --help included.
_LIGHTNING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_LIGHTNING)
def fit() -> None:
    """Align a modality: --config BACKBONE.yaml --config MODALITY.yaml (later --config wins)."""
    _quieten()
    usage = "vlynx fit --config BACKBONE.yaml --config MODALITY.yaml [--run DIR] [--KEY=VALUE ...]"
    VlynxCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=42,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"fit": {"usage": usage}},
    )


@app.command()
def toyworld(
    out: Annotated[Path, typer.Option(help="folder to write")],
    scenes: Annotated[int, typer.Option(min=3, help="number of rooms")] = 600,
    seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Make the built-in toy world, in ScanNet's, ScanQA's and SQA3D's own formats."""
    from datamodules.toyworld import generate_toyworld

    generate_toyworld(out, scenes=scenes, seed=seed, workers=workers)


@prepare.command("7scenes")
def prepare_7scenes(
    source: Path,
    out: Path,
    scene: Annotated[str | None, typer.Option(help="name of the scene, else the folder's")] = None,
) -> None:
    """Bring a 7-Scenes recording (frame-*.color/depth/pose) into ScanNet's exported layout."""
    from datamodules.media.prepare import prepare_7scenes as prepare

    prepare(source, out, scene)


@app.command()
def params(
    json: Annotated[bool, typer.Option("--json", help="print JSON for machines")] = False,
) -> None:
    """Count the LoRA parameters of the paper's models, built without weights."""
    from vlynx_pl.parameter_counts import print_counts

    print_counts(as_json=json)


def _quieten() -> None:
    """Keep the screen for what matters: a frozen model is meant, advertisements are not."""
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated")  # lightning's own, torch >= 2.13
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )


def main() -> None:
    """Entry point of ``vlynx``: errors that a user can mend are one message, not a traceback."""
    try:
        app()
    except (
        AdapterError,
        BackboneError,
        BadSample,
        GuidanceError,
        ImportError,
        OSError,
        RunFolderError,
    ) as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
